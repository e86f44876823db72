package snapshot

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+path+"?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t *testing.T, db *sql.DB, statement string, values ...any) {
	t.Helper()
	if _, err := db.Exec(statement, values...); err != nil {
		t.Fatal(err)
	}
}

// Each transaction writes two rows: a copy has both or none, and nothing before it is missing.
func TestCopyIsOneMoment(t *testing.T) {
	directory := t.TempDir()
	// A path that would mean something else in a URI.
	path := filepath.Join(directory, "a b%20#c.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	run(t, db, "PRAGMA journal_mode = WAL")
	run(t, db, "CREATE TABLE rows (id INTEGER PRIMARY KEY AUTOINCREMENT, value BLOB)")
	stop, ready := make(chan struct{}), make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for count := 0; ; count++ {
			if count == 20 {
				close(ready)
			}
			select {
			case <-stop:
				return
			default:
			}
			tx, err := db.Begin()
			if err != nil {
				t.Error(err)
				return
			}
			for range 2 {
				if _, err := tx.Exec("INSERT INTO rows (value) VALUES (randomblob(3000))"); err != nil {
					t.Error(err)
				}
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
		}
	})
	<-ready
	to := filepath.Join(directory, "copy")
	if err := Copy(context.Background(), path, to); err != nil {
		t.Fatal(err)
	}
	close(stop)
	writer.Wait()
	copied := open(t, to)
	var count, last int
	if err := copied.QueryRow("SELECT count(*), max(id) FROM rows").Scan(&count, &last); err != nil {
		t.Fatal(err)
	}
	if count < 40 || count%2 != 0 || count != last {
		t.Errorf("%d rows up to %d", count, last)
	}
	var check string
	if err := copied.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Errorf("%s %v", check, err)
	}
	// Numbers go on where they were, after the last row was deleted, too.
	run(t, copied, "DELETE FROM rows WHERE id = ?", last)
	run(t, copied, "INSERT INTO rows (value) VALUES ('')")
	var next int
	if err := copied.QueryRow("SELECT max(id) FROM rows").Scan(&next); err != nil || next != last+1 {
		t.Errorf("%d after %d: %v", next, last, err)
	}
}

func TestNothingIsMadeAndNothingReplaced(t *testing.T) {
	directory := t.TempDir()
	missing, to := filepath.Join(directory, "missing"), filepath.Join(directory, "copy")
	if err := Copy(context.Background(), missing, to); err == nil {
		t.Error("a missing datastore was copied")
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the datastore was made")
	}
	path := filepath.Join(directory, "state")
	run(t, open(t, path), "CREATE TABLE t (a)")
	if err := os.WriteFile(to, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Copy(context.Background(), path, to); err == nil {
		t.Error("a file was replaced")
	}
	if Main([]string{"datastore-copy", path}) == nil {
		t.Error("one path is not enough")
	}
}
