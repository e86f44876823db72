//! Work done by several threads whose results are taken in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::error::{Error, Kind, Result};

/// Calls `work` for each of `items` on `threads` threads and `take` with the results,
/// in order and on this thread. The first error, in order, ends it all.
pub(crate) fn in_order<I: Sync, R: Send>(
    threads: usize,
    items: &[I],
    work: impl Fn(&I) -> Result<R> + Sync,
    mut take: impl FnMut(&I, R) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (send, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            let send = send.clone();
            let (next, stop, work) = (&next, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    if send.send((i, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let mut early = BTreeMap::new();
        let mut outcome = Ok(());
        let mut due = 0;
        'results: for (i, result) in results {
            early.insert(i, result);
            while let Some(result) = early.remove(&due) {
                outcome = result.and_then(|r| take(&items[due], r));
                if outcome.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    break 'results;
                }
                due += 1;
            }
        }
        if outcome.is_ok() && due < items.len() {
            // Only if a thread died, which the scope then reports as a panic of ours.
            return Err(Error::new(Kind::Bug, "a worker thread ended too early"));
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        let items: Vec<u32> = (0..100).collect();
        for threads in [0, 1, 3, 200] {
            let mut seen = Vec::new();
            in_order(
                threads,
                &items,
                |i| Ok(i * 2),
                |_, r| {
                    seen.push(r);
                    Ok(())
                },
            )
            .unwrap();
            assert!(seen.iter().copied().eq((0..100).map(|i| i * 2)));
            let error = in_order(
                threads,
                &items,
                |i| match i {
                    7 | 50 => Err(Error::new(Kind::Io, format!("item {i}"))),
                    i => Ok(*i),
                },
                |_, _| Ok(()),
            )
            .unwrap_err();
            assert_eq!(error.message(), "item 7");
        }
        in_order(4, &[] as &[u32], |_| Ok(()), |_, ()| Ok(())).unwrap();
    }
}
