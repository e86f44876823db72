// Command bootstrap has kube-apiserver's RBAC policy reconciled against a server that
// counts: how often it is asked for a single cluster role or binding, and how often
// one is written.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	restclient "k8s.io/client-go/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

const group = "/apis/rbac.authorization.k8s.io/v1/"

type server struct {
	roles           map[string]rbacv1.ClusterRole
	asked, written  int
	conflict        string // refuses the first update of this one
	conflictedSince bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	kind, name, one := strings.Cut(strings.TrimPrefix(r.URL.Path, group), "/")
	if kind != "clusterroles" {
		// Not what is counted: whatever is asked for is not there, and made.
		if r.Method == http.MethodGet && one {
			notFound(w, name)
			return
		}
		if r.Method == http.MethodGet {
			answer(w, rbacv1.ClusterRoleBindingList{Items: append(
				bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...)})
			return
		}
		answer(w, struct{}{})
		return
	}
	switch {
	case r.Method == http.MethodGet && !one:
		list := rbacv1.ClusterRoleList{}
		for _, role := range s.roles {
			list.Items = append(list.Items, role)
		}
		answer(w, list)
	case r.Method == http.MethodGet:
		// Those are asked for before, to see whether an old cluster is to be migrated.
		if !strings.HasPrefix(name, "system:aggregate-to-") {
			s.asked++
		}
		if role, ok := s.roles[name]; ok {
			answer(w, role)
		} else {
			notFound(w, name)
		}
	default:
		s.written++
		if name == s.conflict && name != "" && !s.conflictedSince {
			s.conflictedSince = true
			fail(w, apierrors.NewConflict(schema.GroupResource{Resource: kind}, name, nil))
			return
		}
		answer(w, struct{}{})
	}
}

func notFound(w http.ResponseWriter, name string) {
	fail(w, apierrors.NewNotFound(schema.GroupResource{Resource: "these"}, name))
}

func fail(w http.ResponseWriter, status *apierrors.StatusError) {
	w.WriteHeader(int(status.ErrStatus.Code))
	answer(w, status.ErrStatus)
}

func answer(w http.ResponseWriter, what any) { _ = json.NewEncoder(w).Encode(what) }

func main() {
	_, hook, err := rbacrest.RESTStorageProvider{}.PostStartHook()
	check(err)
	for _, about := range []string{"in place", "one missing", "one changed since"} {
		s := &server{roles: map[string]rbacv1.ClusterRole{}}
		for _, role := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
			s.roles[role.Name] = role
		}
		switch about {
		case "one missing":
			delete(s.roles, "system:discovery")
		case "one changed since":
			role := s.roles["system:node"]
			role.Rules, role.ObjectMeta = nil, metav1.ObjectMeta{Name: role.Name}
			s.roles[role.Name], s.conflict = role, role.Name
		}
		listening := httptest.NewServer(s)
		check(hook(genericapiserver.PostStartHookContext{
			Context:              context.Background(),
			LoopbackClientConfig: &restclient.Config{Host: listening.URL, QPS: -1},
		}))
		listening.Close()
		fmt.Printf("%s: %d asked, %d written\n", about, s.asked, s.written)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
