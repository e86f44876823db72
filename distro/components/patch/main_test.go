package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/distro/components/laying"
)

// What a patched program does, built as the builder builds.
func TestOwnCertificatesAreOfP256(t *testing.T) {
	t.Chdir("..")
	dir := t.TempDir()
	if err := laying.Lay(dir, write); err != nil {
		t.Fatal(err)
	}
	run := exec.Command("go", "run", "-trimpath",
		"-overlay="+filepath.Join(dir, "overlay.json"), "-modfile="+filepath.Join(dir, "go.mod"),
		"./patch/testdata/selfsigned")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "ECDSA ECDSA" {
		t.Errorf("keys are of %s", got)
	}
}

func TestChangedUpstreamIsRefused(t *testing.T) {
	t.Chdir("..")
	p := patches[0]
	root, err := laying.ModuleOf(p.within)
	if err != nil {
		t.Fatal(err)
	}
	p.edits = append([]edit{{"package cert", "package cert"}}, p.edits...)
	if _, err := p.apply(root); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"nowhere in it", "err != nil"} {
		p.edits[0].old = old
		if _, err := p.apply(root); err == nil || !strings.Contains(err.Error(), "upstream has changed") {
			t.Errorf("%q: %v", old, err)
		}
	}
}
