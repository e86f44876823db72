// Package settle lets a program's heap grow freely while the program starts, and
// keeps it small from then on.
//
// Starting a component makes much garbage once; collecting it with the share that
// suits an idle component (GOGC) takes a fifth of the whole start's processor
// time. So GOGC itself is large, and Variable holds what it becomes when the start
// is over: as soon as the program does little, and soon enough in any case. On a
// small machine it is over before it begins.
package settle

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

// Variable names the percentage of GOGC that holds once the program has settled.
const Variable = "SLIPWAY_SETTLED_GOGC"

const (
	// window is how long a program has to do little, and how often one looks.
	window = 20 * time.Second
	// little is the share of one processor that is no start any more.
	little = 0.2
	// atLast is when the start is over for a program that is always busy.
	atLast = 3 * time.Minute
	// roomy is the memory in bytes that a machine must have for garbage to lie.
	roomy = 1400 << 20
)

// Begin starts watching, if the environment says to what share to settle.
func Begin() {
	value, ok := os.LookupEnv(Variable)
	if !ok {
		return
	}
	percent, err := strconv.Atoi(value)
	if err != nil || percent < 1 {
		fmt.Fprintf(os.Stderr, "%s: %q is no percentage\n", Variable, value)
		return
	}
	if memory() < roomy {
		debug.SetGCPercent(percent)
		return
	}
	go func() {
		begin := time.Now()
		used := processorTime()
		for {
			time.Sleep(window)
			now := processorTime()
			if over(time.Since(begin), now-used) {
				break
			}
			used = now
		}
		debug.SetGCPercent(percent)
		debug.FreeOSMemory()
	}()
}

// memory is what the machine has, in bytes; none where that can't be told.
func memory() uint64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// over tells whether the start is over, so long after it began, when so much
// processor time was used in the last window.
func over(age, used time.Duration) bool {
	return age >= atLast || used.Seconds() < little*window.Seconds()
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		// It can't fail for oneself (getrusage(2)); if it did, the time would not pass, and
		// the program would count as idle.
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
