package settle

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestOver(t *testing.T) {
	for _, c := range []struct {
		age, used time.Duration
		over      bool
	}{
		{window, window, false},
		{window, window / 4, false},
		{window, window / 10, true},
		{window, 0, true},
		{atLast - time.Second, 2 * window, false},
		{atLast, 2 * window, true},
	} {
		if got := over(c.age, c.used); got != c.over {
			t.Errorf("over(%v, %v) = %v", c.age, c.used, got)
		}
	}
}

func TestProcessorTimePasses(t *testing.T) {
	before := processorTime()
	for processorTime() == before {
	}
}

// A program with a broken value must start all the same, and say so.
func TestNonsenseIsSaid(t *testing.T) {
	if os.Getenv("SETTLE_CHILD") != "" {
		Begin()
		return
	}
	for _, value := range []string{"", "off", "0", "-5"} {
		child := exec.Command(os.Args[0], "-test.run=TestNonsenseIsSaid")
		child.Env = []string{"SETTLE_CHILD=1", Variable + "=" + value}
		out, err := child.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "is no percentage") {
			t.Errorf("%q: %v\n%s", value, err, out)
		}
	}
}
