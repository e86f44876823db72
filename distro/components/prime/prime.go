// Package prime writes into an empty datastore what kube-apiserver would put there
// at its first start: RBAC's bootstrap policy, the system namespaces, the flow
// schemas and priority levels, and the service accounts of controllers.
//
// kube-apiserver makes these objects through its own API, one after the other: to
// ask, to be told that there is none, to create. The 130 roles and bindings alone
// are the longest part of a cluster's first start. What it finds it only compares,
// so all that is written here is checked by it at every start, the first included,
// and corrected where it differs.
//
// The objects come from upstream's own tables and are encoded by upstream's own
// codec, so that they are those of the version that runs.
package prime

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/uuid"
	flowcontrol "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

const (
	// Where kube-apiserver keeps everything (its --etcd-prefix).
	root = "/registry"
	// Writers at a time: a datastore waits for the disk at each commit, and what
	// comes next is prepared meanwhile.
	writers = 4
	// Longest time for all of it. Whoever exceeds it leaves the rest to kube-apiserver.
	patience = 2 * time.Minute
)

// Entry is an object as it lies in the datastore.
type Entry struct {
	Key    string
	Object runtime.Object
}

// object is what all our objects are.
type object interface {
	runtime.Object
	metav1.Object
}

// Store primes the datastore at an endpoint such as unix:///run/clusterd/kine.sock,
// unless there is something in it already, and says how many objects it wrote.
//
// A key that appears meanwhile is left as it is. When this is cut short, what was
// written stays, and kube-apiserver adds what is missing.
func Store(ctx context.Context, endpoint string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The datastore may still be starting, and its first answer is what this waits for.
	haste := grpc.ConnectParams{Backoff: backoff.Config{
		BaseDelay: 50 * time.Millisecond, Multiplier: 1.2, MaxDelay: time.Second,
	}}
	client, err := clientv3.New(clientv3.Config{
		Context:     ctx,
		Endpoints:   []string{endpoint},
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(haste)},
		Logger:      zap.NewNop(),
	})
	if err != nil {
		return 0, fmt.Errorf("connecting to the datastore: %w", err)
	}
	defer client.Close()

	first := path.Join(root, "clusterroles") + "/"
	found, err := client.Get(ctx, first, clientv3.WithPrefix(), clientv3.WithLimit(1))
	if err != nil {
		return 0, fmt.Errorf("looking for cluster roles in the datastore: %w", err)
	}
	if len(found.Kvs) > 0 {
		return 0, nil
	}
	entries := Entries(metav1.Now().Rfc3339Copy())
	return len(entries), write(ctx, client, entries)
}

// write creates what isn't there yet.
func write(ctx context.Context, client *clientv3.Client, entries []Entry) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan Entry)
	var working sync.WaitGroup
	for range writers {
		working.Go(func() {
			for entry := range queue {
				if err := create(ctx, client, entry); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, entry := range entries {
		queue <- entry
	}
	close(queue)
	working.Wait()
	return context.Cause(ctx)
}

func create(ctx context.Context, client *clientv3.Client, entry Entry) error {
	value, err := Encode(entry.Object)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", entry.Key, err)
	}
	// kine knows this transaction in exactly this shape.
	_, err = client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(entry.Key), "=", 0)).
		Then(clientv3.OpPut(entry.Key, string(value))).
		Commit()
	if err != nil {
		return fmt.Errorf("writing %s: %w", entry.Key, err)
	}
	return nil
}

// Encode gives an object's bytes in the datastore: its version's protobuf in
// Kubernetes' envelope (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
func Encode(object runtime.Object) ([]byte, error) {
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(object)
	if err != nil {
		return nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	serializer := protobuf.NewSerializer(legacyscheme.Scheme, legacyscheme.Scheme)
	return runtime.Encode(serializer, object)
}

// Entries lists everything, as if it had been made at the given time. What is
// named by others comes before them: namespaces, roles, priority levels.
func Entries(now metav1.Time) []Entry {
	list := entries{now: now}
	for _, name := range namespaces {
		list.add("namespaces", &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{
				Name:   name,
				Labels: map[string]string{corev1.LabelMetadataName: name},
			},
			Spec:   corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
			Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
		})
	}
	list.policy()
	list.flow()
	for _, name := range controllers {
		list.add("serviceaccounts", &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem},
		})
	}
	return list.all
}

type entries struct {
	now metav1.Time
	all []Entry
}

// add completes an object as the API does at its creation.
func (e *entries) add(resource string, object object) {
	object.SetUID(uuid.NewUUID())
	object.SetCreationTimestamp(e.now)
	legacyscheme.Scheme.Default(object)
	key := path.Join(root, resource, object.GetNamespace(), object.GetName())
	e.all = append(e.all, Entry{Key: key, Object: object})
}

// policy adds what kube-apiserver's hook rbac/bootstrap-roles makes
// (k8s.io/kubernetes/pkg/registry/rbac/rest).
func (e *entries) policy() {
	roles := append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...)
	for i := range roles {
		e.add("clusterroles", &roles[i])
	}
	bindings := append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...)
	for i := range bindings {
		e.add("clusterrolebindings", &bindings[i])
	}
	each(bootstrappolicy.NamespaceRoles(), func(role *rbacv1.Role) { e.add("roles", role) })
	each(bootstrappolicy.NamespaceRoleBindings(), func(binding *rbacv1.RoleBinding) { e.add("rolebindings", binding) })
}

func each[T any](byNamespace map[string][]T, add func(*T)) {
	for _, list := range byNamespace {
		for i := range list {
			add(&list[i])
		}
	}
}

// flow adds what the hook priority-and-fairness-config-producer makes
// (k8s.io/kubernetes/pkg/registry/flowcontrol/ensurer).
func (e *entries) flow() {
	for _, level := range append(flowcontrol.MandatoryPriorityLevelConfigurations,
		flowcontrol.SuggestedPriorityLevelConfigurations...) {
		level = level.DeepCopy()
		level.Generation = 1
		e.add("prioritylevelconfigurations", level)
	}
	for _, schema := range append(flowcontrol.MandatoryFlowSchemas,
		flowcontrol.SuggestedFlowSchemas...) {
		schema = schema.DeepCopy()
		schema.Generation = 1
		// What the controller says of a schema whose level it has found.
		schema.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{
			Type:               flowcontrolv1.FlowSchemaConditionDangling,
			Status:             flowcontrolv1.ConditionFalse,
			LastTransitionTime: e.now,
			Reason:             "Found",
			Message: fmt.Sprintf(
				"This FlowSchema references the PriorityLevelConfiguration object named %q and it exists",
				schema.Spec.PriorityLevelConfiguration.Name),
		}}
		e.add("flowschemas", schema)
	}
}
