package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/distro/components/laying"
)

func TestOwnCertificatesAreOfP256(t *testing.T) {
	if got := run(t, "selfsigned"); got != "ECDSA ECDSA" {
		t.Errorf("keys are of %s", got)
	}
}

func TestBootstrapPolicyIsComparedWithWhatWasListed(t *testing.T) {
	want := "in place: 0 asked, 0 written\n" +
		"one missing: 1 asked, 1 written\n" +
		"one changed since: 1 asked, 2 written"
	if got := run(t, "bootstrap"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestKineKeepsStatementsAndAnswersWhenAsked(t *testing.T) {
	want := "49 of 50 listed, 100 seen\nprogress: true true"
	if got := run(t, "progress"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// run says what a program of testdata prints, built as the builder builds.
func run(t *testing.T, program string) string {
	t.Chdir("..")
	dir := t.TempDir()
	if err := laying.Lay(dir, write); err != nil {
		t.Fatal(err)
	}
	run := exec.Command("go", "run", "-trimpath",
		"-overlay="+filepath.Join(dir, "overlay.json"), "-modfile="+filepath.Join(dir, "go.mod"),
		"./patch/testdata/"+program)
	var said strings.Builder
	run.Stderr = &said
	out, err := run.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, said.String())
	}
	return strings.TrimSpace(string(out))
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
