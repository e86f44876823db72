// Package snapshot copies a SQLite datastore as it is at one moment, while kine writes to it.
//
// `VACUUM INTO` reads in one transaction, which in WAL mode holds no writer up, and leaves
// out free pages: on a datastore that is compacted all the time the copy is often half the
// size, and so much less for flash to take. Unlike the backup API, which copies pages as
// they are, it reads every row, so a damaged datastore makes no snapshot that looks good.
// It uses kine's own driver, and so the same version of SQLite.
package snapshot

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	_ "modernc.org/sqlite" // kine's driver where there is no C: registers itself as "sqlite"
)

// Main copies args[1] to args[2].
func Main(args []string) error {
	if len(args) != 3 {
		return errors.New("two paths are needed: the datastore, and the copy to make")
	}
	return Copy(context.Background(), args[1], args[2])
}

// Copy makes the file to, which must not exist, from the datastore, which must. The copy is
// flushed by whoever goes on with it.
func Copy(ctx context.Context, from, to string) error {
	from, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	if to, err = filepath.Abs(to); err != nil {
		return err
	}
	name := url.URL{
		Scheme: "file",
		Path:   from,
		// rw: what a kill has left in the WAL is recovered, but nothing is made.
		RawQuery: "mode=rw&_pragma=busy_timeout(30000)",
	}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return fmt.Errorf("opening %s: %w", from, err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("copying %s to %s: %w", from, to, err)
	}
	return db.Close()
}
