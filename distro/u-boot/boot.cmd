# Chooses a slot, counts its try, and runs the slot's own script. The builder makes boot.scr of
# it, on the firmware partition of every board that U-Boot starts. It is written for all of
# Debian's builds: no setexpr (am335x), no FIT and no hashes (Raspberry Pi). What it goes by is
# described in images/src/slot/choice.rs; docs/boards/u-boot.md tells what it says.
#
# U-Boot sets devtype, devnum and distro_bootpart: where it has found this. kernel_addr_r is
# memory that nothing is in yet. Within quotes an apostrophe ends U-Boot's parser.

setenv here ${devtype} ${devnum}:${distro_bootpart}

# What the copies say. The first one is read last, so that it counts if it holds together.
setenv first
setenv a
setenv b
setenv whole0
setenv whole1
for n in 1 0; do
  if load ${here} ${kernel_addr_r} slipway/slots-${n}.env; then
    if env import -c ${kernel_addr_r} ${filesize} first a b; then
      setenv whole${n} yes
    fi
  fi
done
if test -z "${whole0}${whole1}"; then
  echo "Slipway: nothing says which slot: both are tried"
  setenv first a
  setenv a good
  setenv b good
fi

# The slot that was staged last comes first, if it is good or has tries left.
if test "${first}" = b; then
  setenv order b a
else
  setenv order a b
fi
setenv slot
setenv last
for s in ${order}; do
  if test ${s} = a; then
    setenv left "${a}"
  else
    setenv left "${b}"
  fi
  for n in good 3 2 1; do
    if test -z "${slot}" && test "${left}" = ${n}; then
      setenv slot ${s}
    fi
  done
  if test -z "${last}" && test "${left}" = 0; then
    setenv last ${s}
  fi
done
# With nothing else, one whose tries are gone.
if test -z "${slot}"; then
  setenv slot ${last}
fi

if test "${slot}" = b; then
  setenv left "${b}"
  setenv other a
  setenv spare "${a}"
else
  setenv left "${a}"
  setenv other b
  setenv spare "${b}"
fi

# A try is taken away before it begins: what never comes up doesn't come back for ever. A copy
# that is broken is written first, since the other one is all there is.
setenv less
if test "${left}" = 3; then setenv less 2; fi
if test "${left}" = 2; then setenv less 1; fi
if test "${left}" = 1; then setenv less 0; fi
if test -n "${less}"; then
  setenv ${slot} ${less}
  setenv copies 0 1
  if test -z "${whole1}"; then
    setenv copies 1 0
  fi
  setenv counted
  env export -c -s 200 ${kernel_addr_r} first a b
  for n in ${copies}; do
    if fatwrite ${here} ${kernel_addr_r} slipway/slots-${n}.env 200; then
      setenv counted yes
    fi
  done
  if test -z "${counted}" && test "${spare}" = good; then
    echo "Slipway: the try of slot ${slot} cannot be counted, and is not begun"
    setenv slot ${other}
    setenv left good
  fi
fi

# Partition 2 is boot-a, 4 is boot-b. A good slot that can't be loaded leaves it to the other.
setenv fallback
if test "${left}" = good; then
  setenv fallback ${other}
fi
for s in ${slot} ${fallback}; do
  if test ${s} = a; then
    setenv area 2
  else
    setenv area 4
  fi
  echo "Slipway: slot ${s}, ${left}"
  if load ${devtype} ${devnum}:${area} ${kernel_addr_r} slot.scr; then
    source ${kernel_addr_r}
  fi
  echo "Slipway: slot ${s} cannot be started"
done
echo "Slipway: nothing could be started: once more in 10 seconds"
sleep 10
reset
