# The two commands of the README, and what they are made of.

.DEFAULT_GOAL := help
.PHONY: help setup build run test test-power test-wifi test-boards check bench bench-boards

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing to build and run
	@ci/setup run

build: setup ## make the x86_64 image in target/images
	@cargo build --quiet --release --locked -p slipway
	@target/release/slipway build x86_64

run: setup ## build the image and boot it in QEMU to a Ready node (ONCE=1: then stop it)
	@ci/run

test: ## set up, then every check and test that CI runs
	@ci/setup test
	@ci/test

test-power: build ## cut the power 1,500 times while slots are updated, judge what is left, boot ten of it
	@ci/setup test
	@SLIPWAY_CUTS=1500 cargo test --quiet --workspace --locked --test slot power:: -- --nocapture
	@cargo test --quiet --workspace --locked --test boot -- --ignored cuts::

test-wifi: build ## boot an image with simulated radios and join wireless networks
	@ci/setup test
	@target/release/slipway build test-wifi
	@cargo test --quiet --workspace --locked --test boot -- --ignored wireless_

BOARDS = arm64-uefi armv7 beaglebone-black pi2-3 pi4

test-boards: build ## build the images of the other boards, check them, boot those that QEMU can, and two as a cluster
	@ci/setup boards
	@cargo build --quiet --release --locked -p slipway
	@for board in $(BOARDS); do \
	  target/release/slipway build $$board && \
	  ci/image-check target/images/$$board.img target/images/$$board.img.zst || exit; \
	done
	@cargo test --quiet --workspace --locked --test boot -- --ignored --test-threads=1 board_ joined::

check: ## formatting and lints only
	@ci/check

bench: setup ## measure builds, sizes, updates, boot times and memory
	@ci/setup test
	@ci/bench

bench-boards: setup ## measure the other boards' sizes, boot times, memory and writes
	@ci/setup boards
	@ci/bench-boards $(BOARDS)
