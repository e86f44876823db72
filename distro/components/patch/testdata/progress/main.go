// Command progress serves an SQLite datastore by kine and works with it as
// kube-apiserver does: it creates, changes and lists objects, asks a watch for
// progress when nothing happens, and prints what it was told.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/kine/pkg/endpoint"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const objects = 50

// As clusterd gives them.
const parameters = "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate"

func main() {
	dir, err := os.MkdirTemp("", "progress")
	check(err)
	defer func() { check(os.RemoveAll(dir)) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	socket := "unix://" + filepath.Join(dir, "kine.sock")
	_, err = endpoint.Listen(ctx, endpoint.Config{
		Endpoint:         "sqlite://" + filepath.Join(dir, "state.db") + parameters,
		Listener:         socket,
		NotifyInterval:   time.Minute,
		CompactBatchSize: 1000, PollBatchSize: 500, CompactTimeout: 5 * time.Second,
	})
	check(err)
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{socket}})
	check(err)

	watched := client.Watch(ctx, "/registry/things/", clientv3.WithPrefix(), clientv3.WithProgressNotify())
	for n := range objects {
		key := fmt.Sprintf("/registry/things/%d", n)
		made, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "first")).Commit()
		check(err)
		changed, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", made.Header.Revision)).
			Then(clientv3.OpPut(key, "second")).Else(clientv3.OpGet(key)).Commit()
		check(err)
		if !made.Succeeded || !changed.Succeeded {
			check(fmt.Errorf("%s was not written", key))
		}
	}
	list, err := client.Get(ctx, "/registry/things/", clientv3.WithPrefix(), clientv3.WithLimit(objects-1))
	check(err)
	seen := 0
	for seen < 2*objects {
		seen += len((<-watched).Events)
	}
	fmt.Printf("%d of %d listed, %d seen\n", len(list.Kvs), list.Count, seen)

	check(client.RequestProgress(ctx))
	select {
	case answer := <-watched:
		fmt.Println("progress:", answer.IsProgressNotify(), answer.Header.Revision == list.Header.Revision)
	case <-ctx.Done():
		fmt.Println("no progress")
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
