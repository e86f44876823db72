package prime

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// What is written can be read by the API server's codec, each object once, and is
// what was meant.
func TestEntriesAreReadBack(t *testing.T) {
	seen := map[string]bool{}
	for _, entry := range Entries(metav1.Now().Rfc3339Copy()) {
		if seen[entry.Key] || !strings.HasPrefix(entry.Key, root+"/") {
			t.Errorf("%s: twice, or in no place of the API server", entry.Key)
		}
		seen[entry.Key] = true
		value, err := Encode(entry.Object)
		if err != nil {
			t.Fatalf("%s: %v", entry.Key, err)
		}
		kind := entry.Object.GetObjectKind().GroupVersionKind()
		read, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(value, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", entry.Key, err)
		}
		read.GetObjectKind().SetGroupVersionKind(kind)
		if !equality.Semantic.DeepEqual(read, entry.Object) {
			t.Errorf("%s: %v was read back as %v", entry.Key, entry.Object, read)
		}
	}
	for _, key := range []string{
		"/registry/clusterroles/cluster-admin",
		"/registry/namespaces/kube-system",
		"/registry/rolebindings/kube-system/system::leader-locking-kube-scheduler",
	} {
		if !seen[key] {
			t.Errorf("%s is missing", key)
		}
	}
}

// A datastore that never answers costs no more than the caller allows.
func TestADeadDatastoreIsAnError(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	count, err := Store(ctx, "unix://"+socket)
	if err == nil || count != 0 || !strings.Contains(err.Error(), "datastore") {
		t.Errorf("%d, %v", count, err)
	}
}
