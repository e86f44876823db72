//! The state that all threads share: what each component does, and whether to go on.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::component::Name;

/// What a component does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// For what it needs, or for its next attempt.
    Waiting,
    /// Its process runs but doesn't answer yet.
    Starting,
    /// It answers.
    Up,
    /// It was asked to end.
    Stopping,
    /// It ended on request.
    Stopped,
}

/// One component's line on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it does.
    pub state: State,
    /// How often it ended without being asked.
    pub restarts: u32,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// Why it ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// Everything that is known at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// By component.
    pub components: BTreeMap<Name, Line>,
    /// A server's API answers this agent; always false on a server, whose own counts.
    pub api_reached: bool,
    /// The API's bootstrap roles are in force for the components.
    pub roles_in_force: bool,
    /// The API answers `/readyz`.
    pub api_ready: bool,
    /// The node is Ready, as its kubelet of this boot says.
    pub node_ready: bool,
    /// Running pods on this node.
    pub pods: usize,
    /// Add-ons are applied.
    pub addons_applied: bool,
    /// What is wrong, if anything.
    pub trouble: BTreeMap<&'static str, String>,
    /// Everything is to end.
    pub stopping: bool,
}

impl Facts {
    /// Whether an API server answers requests, if not yet with everything in place.
    pub fn api_serves(&self) -> bool {
        self.is(Name::ApiServer, State::Up) || self.api_reached
    }

    /// Whether a component is in this state.
    pub fn is(&self, name: Name, state: State) -> bool {
        self.components
            .get(&name)
            .is_some_and(|line| line.state == state)
    }
}

/// Facts that threads wait on.
#[derive(Debug)]
pub struct Board {
    facts: Mutex<Facts>,
    changed: Condvar,
}

impl Board {
    /// A board on which every component waits.
    pub fn new(names: &[Name]) -> Self {
        let line = Line {
            state: State::Waiting,
            restarts: 0,
            pid: None,
            last_exit: None,
        };
        Self {
            facts: Mutex::new(Facts {
                components: names.iter().map(|name| (*name, line.clone())).collect(),
                api_reached: false,
                roles_in_force: false,
                api_ready: false,
                node_ready: false,
                pods: 0,
                addons_applied: false,
                trouble: BTreeMap::new(),
                stopping: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Changes facts and wakes who waits.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.lock();
        let before = facts.clone();
        change(&mut facts);
        // What a server answered is no longer true once it is gone.
        let api_up = facts.api_serves();
        facts.api_ready &= api_up;
        facts.roles_in_force &= api_up;
        if *facts != before {
            self.changed.notify_all();
        }
    }

    /// Keeps what is wrong with a part, or that nothing is.
    pub fn note<T, E: Display>(&self, what: &'static str, result: &Result<T, E>) {
        self.update(|facts| match result {
            Ok(_) => drop(facts.trouble.remove(what)),
            Err(error) => drop(facts.trouble.insert(what, error.to_string())),
        });
    }

    /// Changes a component's line.
    pub fn set(&self, name: Name, change: impl FnOnce(&mut Line)) {
        self.update(|facts| {
            if let Some(line) = facts.components.get_mut(&name) {
                change(line);
            }
        });
    }

    /// The facts of this moment.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Waits until `holds` or everything is to end; `false` in the latter case.
    pub fn wait(&self, holds: impl Fn(&Facts) -> bool) -> bool {
        let mut facts = self.lock();
        loop {
            if facts.stopping {
                return false;
            }
            if holds(&facts) {
                return true;
            }
            facts = self
                .changed
                .wait(facts)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until `holds` or the time is over; whether it holds.
    pub fn wait_for(&self, time: Duration, holds: impl Fn(&Facts) -> bool) -> bool {
        let end = Instant::now() + time;
        let mut facts = self.lock();
        loop {
            if holds(&facts) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            facts = self
                .changed
                .wait_timeout(facts, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lets time pass, but not when everything is to end; `false` then.
    pub fn pause(&self, time: Duration) -> bool {
        !self.wait_for(time, |facts| facts.stopping)
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A thread that panicked left whole facts: each change is one assignment.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
