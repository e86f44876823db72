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
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"slipway/distro/components/laying"
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
}, {
	module: "k8s.io/kubernetes",
	within: "k8s.io/kubernetes/pkg/registry/rbac/rest",
	file:   "pkg/registry/rbac/rest/storage_rbac.go",
	// At each start kube-apiserver lists roles and bindings only to see whether the
	// datastore answers, then asks for some 130 of them by name. What was listed
	// answers the first question for each; where it is out of date the update
	// conflicts, and the next question is asked for real.
	because: "kube-apiserver compares RBAC's bootstrap policy with what it has listed",
	edits: []edit{
		{
			"\tif _, err := client.RbacV1().ClusterRoles().List(context.TODO(), metav1.ListOptions{}); err != nil {\n",
			"\troles, err := client.RbacV1().ClusterRoles().List(context.TODO(), metav1.ListOptions{})\n" +
				"\tif err != nil {\n",
		},
		{
			"\tif _, err := client.RbacV1().ClusterRoleBindings().List(context.TODO(), metav1.ListOptions{}); err != nil {\n",
			"\tbindings, err := client.RbacV1().ClusterRoleBindings().List(context.TODO(), metav1.ListOptions{})\n" +
				"\tif err != nil {\n",
		},
		{
			"\t// ensure bootstrap roles are created or reconciled\n",
			"\tlistedRoles := listedClusterRoles{client.RbacV1().ClusterRoles(), map[string]*rbacapiv1.ClusterRole{}}\n" +
				"\tfor i := range roles.Items {\n" +
				"\t\tlistedRoles.listed[roles.Items[i].Name] = &roles.Items[i]\n" +
				"\t}\n" +
				"\tlistedBindings := listedClusterRoleBindings{client.RbacV1().ClusterRoleBindings(), map[string]*rbacapiv1.ClusterRoleBinding{}}\n" +
				"\tfor i := range bindings.Items {\n" +
				"\t\tlistedBindings.listed[bindings.Items[i].Name] = &bindings.Items[i]\n" +
				"\t}\n\n" +
				"\t// ensure bootstrap roles are created or reconciled\n",
		},
		{
			"reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()}",
			"reconciliation.ClusterRoleModifier{Client: listedRoles}",
		},
		{
			"reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()}",
			"reconciliation.ClusterRoleBindingClientAdapter{Client: listedBindings}",
		},
		{
			"func (p RESTStorageProvider) GroupName() string {\n",
			listed("ClusterRole") + listed("ClusterRoleBinding") +
				"func (p RESTStorageProvider) GroupName() string {\n",
		},
	},
}, {
	module: "github.com/k3s-io/kine",
	within: "github.com/k3s-io/kine/pkg/server",
	file:   "pkg/server/watch.go",
	// Whether somebody has asked for progress is looked at ten times a second for each
	// stream of watches, and kube-apiserver has one for each kind of object. Lists that
	// it serves from memory wait for the answer.
	because: "kine answers at once when it is asked for progress, and looks after it only then",
	edits: []edit{
		{"\tgo util.UntilWithContext(ws.Context(), progressResponsePeriod, w.ProgressAll, false)\n", ""},
		{
			"\tw.RLock()\n\tdefer w.RUnlock()\n\tw.notify.Store(true)\n}\n",
			`	if w.notify.CompareAndSwap(false, true) {
		go w.progressNow(ctx)
	}
}

// progressNow sends the progress that was asked for, and tries again where that failed.
func (w *watcher) progressNow(ctx context.Context) {
	for w.ProgressAll(ctx); w.notify.Load(); w.ProgressAll(ctx) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(progressResponsePeriod):
		}
	}
}
`,
		},
	},
}, {
	module: "github.com/k3s-io/kine",
	within: "github.com/k3s-io/kine/pkg/drivers/generic",
	file:   "pkg/drivers/generic/generic.go",
	// SQLite takes as long to compile one of kine's dozen statements as to carry it
	// out. Built with cgo, its driver keeps them (_stmt_cache_size); without, it has no
	// such setting. Other databases are reached through proxies that may not keep any.
	because: "kine keeps its compiled statements where the database is SQLite",
	edits: []edit{
		{"\tLockWrites              bool\n", "\tLockWrites              bool\n\tKeepStatements          bool\n\tkept                    sync.Map\n\tkeptCount               atomic.Int32\n"},
		{"\t\"sync\"\n", "\t\"sync\"\n\t\"sync/atomic\"\n"},
		{
			"func (d *Generic) query(ctx context.Context,",
			`// statement gives the compiled one for a query, if it is kept. The text of few queries
// has a number in it that a client chose; they are not to fill the memory.
func (d *Generic) statement(ctx context.Context, query string) *sql.Stmt {
	if found, ok := d.kept.Load(query); ok {
		return found.(*sql.Stmt)
	}
	if !d.KeepStatements || d.keptCount.Load() >= 64 {
		return nil
	}
	statement, err := d.DB.PrepareContext(ctx, query)
	if err != nil {
		return nil
	}
	if found, there := d.kept.LoadOrStore(query, statement); there {
		_ = statement.Close()
		return found.(*sql.Stmt)
	}
	d.keptCount.Add(1)
	return statement
}

func (d *Generic) query(ctx context.Context,`,
		},
		{
			"\treturn d.DB.QueryContext(ctx, sql.Query, args...)\n",
			"\tif statement := d.statement(ctx, sql.Query); statement != nil {\n" +
				"\t\treturn statement.QueryContext(ctx, args...)\n\t}\n" +
				"\treturn d.DB.QueryContext(ctx, sql.Query, args...)\n",
		},
		{
			"\treturn d.DB.QueryRowContext(ctx, sql.Query, args...)\n",
			"\tif statement := d.statement(ctx, sql.Query); statement != nil {\n" +
				"\t\treturn statement.QueryRowContext(ctx, args...)\n\t}\n" +
				"\treturn d.DB.QueryRowContext(ctx, sql.Query, args...)\n",
		},
		{
			"\t\tresult, err = d.DB.ExecContext(ctx, sql.Query, args...)\n",
			"\t\tif statement := d.statement(ctx, sql.Query); statement != nil {\n" +
				"\t\t\tresult, err = statement.ExecContext(ctx, args...)\n\t\t} else {\n" +
				"\t\t\tresult, err = d.DB.ExecContext(ctx, sql.Query, args...)\n\t\t}\n",
		},
	},
}, {
	module:  "github.com/k3s-io/kine",
	within:  "github.com/k3s-io/kine/pkg/drivers/sqlite",
	file:    "pkg/drivers/sqlite/sqlite.go",
	because: "kine keeps its compiled statements where the database is SQLite",
	edits: []edit{
		{"\tdialect.LastInsertID = true\n", "\tdialect.LastInsertID = true\n\tdialect.KeepStatements = true\n"},
	},
}}

// listed is a client for a kind that gives what was listed, once for each name.
func listed(kind string) string {
	return strings.ReplaceAll(`type listedKINDs struct {
	rbacv1client.KINDInterface
	listed map[string]*rbacapiv1.KIND
}

func (c listedKINDs) Get(ctx context.Context, name string, opts metav1.GetOptions) (*rbacapiv1.KIND, error) {
	if found, ok := c.listed[name]; ok {
		delete(c.listed, name)
		return found, nil
	}
	return c.KINDInterface.Get(ctx, name, opts)
}

`, "KIND", kind)
}

func main() { laying.Main("patch", write) }

func write(out string) (map[string]string, error) {
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := laying.WriteFile(filepath.Join(out, name), text); err != nil {
			return nil, err
		}
	}
	overlay, laid := map[string]string{}, map[string]bool{}
	for _, p := range patches {
		root, err := laying.ModuleOf(p.within)
		if err != nil {
			return nil, err
		}
		// The path is in the program's build information: the same everywhere.
		instead := "./patched/" + p.module
		if !laid[p.module] {
			laid[p.module] = true
			if err := lay(overlay, root, filepath.Join(here, instead)); err != nil {
				return nil, err
			}
		}
		changed, err := p.apply(root)
		if err != nil {
			return nil, err
		}
		written := filepath.Join(out, instead, p.file)
		if err := laying.WriteFile(written, []byte(changed)); err != nil {
			return nil, err
		}
		overlay[filepath.Join(here, instead, p.file)] = written
		replace := exec.Command("go", "mod", "edit", "-replace="+p.module+"="+instead, filepath.Join(out, "go.mod"))
		if text, err := replace.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("replacing %s in go.mod: %w: %s", p.module, err, text)
		}
	}
	return overlay, nil
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
