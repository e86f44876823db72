// Command patch lays changed copies of modules over the build of Kubernetes,
// where upstream leaves no other way. It copies nothing but the changed files:
// for a module it names a directory below this module's, which is not on disk,
// and describes it for `go build -overlay` in overlay.json as the module's own
// files from the module cache, the changed ones excepted. (Go refuses to lay
// anything over the module cache itself.) go.mod and go.sum beside it are this
// module's with the replacement, for `go build -modfile`. Run it in the
// directory of go.mod, with the directory to write to as its argument.
//
// Each edit must find its text once and no more: where upstream has changed, the
// build ends with a line that says so.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// An edit replaces one place of a file.
type edit struct{ old, new string }

// A patch is the edits of one file of a module.
type patch struct {
	module  string // its path
	within  string // one of its packages: asking for that fetches the module
	file    string // below the module's directory
	edits   []edit
	because string // for the reader of an error
}

var patches = []patch{{
	module: "k8s.io/client-go",
	within: "k8s.io/client-go/util/cert",
	file:   "util/cert/cert.go",
	// kube-apiserver makes a CA and a certificate for its connection to itself at
	// each start, before anything else, and no flag gives it others. Two RSA keys
	// are seconds on a small board; keys of P-256, which the cluster's other
	// certificates have, are milliseconds and no weaker.
	because: "keys that a component makes for itself are of P-256 instead of RSA",
	edits: []edit{
		{"\t\"crypto/rsa\"\n", "\t\"crypto/ecdsa\"\n\t\"crypto/elliptic\"\n"},
		{
			"caKey, err := rsa.GenerateKey(cryptorand.Reader, 2048)",
			"caKey, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)",
		},
		{
			"priv, err := rsa.GenerateKey(cryptorand.Reader, 2048)",
			"priv, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)",
		},
		{
			"\t// Generate key\n",
			"\t// Generate key\n\tkeyBytes, err := x509.MarshalECPrivateKey(priv)\n" +
				"\tif err != nil {\n\t\treturn nil, nil, err\n\t}\n",
		},
		{
			"&pem.Block{Type: keyutil.RSAPrivateKeyBlockType, Bytes: x509.MarshalPKCS1PrivateKey(priv)}",
			"&pem.Block{Type: keyutil.ECPrivateKeyBlockType, Bytes: keyBytes}",
		},
	},
}}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: patch DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "patch: %v\n", err)
		os.Exit(1)
	}
}

func write(out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, name), text, 0o644); err != nil {
			return err
		}
	}
	overlay := map[string]string{}
	for _, p := range patches {
		root, err := p.moduleDir()
		if err != nil {
			return err
		}
		// The path is in the program's build information: the same everywhere.
		instead := "./patched/" + p.module
		if err := lay(overlay, root, filepath.Join(here, instead)); err != nil {
			return err
		}
		changed, err := p.apply(root)
		if err != nil {
			return err
		}
		written := filepath.Join(out, instead, p.file)
		if err := os.MkdirAll(filepath.Dir(written), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(written, []byte(changed), 0o644); err != nil {
			return err
		}
		overlay[filepath.Join(here, instead, p.file)] = written
		replace := exec.Command("go", "mod", "edit", "-replace="+p.module+"="+instead, filepath.Join(out, "go.mod"))
		if text, err := replace.CombinedOutput(); err != nil {
			return fmt.Errorf("replacing %s in go.mod: %w: %s", p.module, err, text)
		}
	}
	description, err := json.MarshalIndent(map[string]any{"Replace": overlay}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "overlay.json"), description, 0o644)
}

// lay adds a module's files to the overlay, as if they were below dir.
func lay(overlay map[string]string, root, dir string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.Type().IsRegular() && !strings.HasSuffix(path, "_test.go") {
			overlay[filepath.Join(dir, below)] = path
		}
		return nil
	})
}

// apply returns the changed file.
func (p patch) apply(root string) (string, error) {
	read, err := os.ReadFile(filepath.Join(root, p.file))
	if err != nil {
		return "", err
	}
	text := string(read)
	for _, e := range p.edits {
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s of %s has %q %d times instead of once: upstream has changed; "+
				"see whether the patch is still needed (%s)", p.file, p.module, e.old, n, p.because)
		}
		text = strings.Replace(text, e.old, e.new, 1)
	}
	return text, nil
}

// moduleDir is where the module's sources are. Asking for a package rather than
// for the module fetches them if they aren't there, and holds to go.sum.
func (p patch) moduleDir() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", p.within).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("finding %s: %s", p.module, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
