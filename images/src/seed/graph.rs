//! Interfaces that are made of others: each is there, in one only, and none is made of itself.

use std::collections::BTreeMap;

use super::network::Network;
use super::read::{Cx, Spot};
use crate::near::near_miss;

/// Where the references of an interface stand: its own key, and each name it refers to.
pub struct Place {
    /// Where its id stands.
    pub own: Spot,
    /// Ids it refers to.
    pub references: Vec<(String, Spot)>,
    /// Whether it takes its references as members, which can be in one such only.
    pub members: bool,
}

/// Checks that references exist, that members are in one bond or bridge, and that nothing
/// is made of itself.
pub fn references(network: &Network, places: &[Place], cx: &mut Cx) {
    let index: BTreeMap<&str, usize> = network
        .interfaces
        .iter()
        .enumerate()
        .map(|(i, interface)| (interface.id.as_str(), i))
        .collect();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (interface, place) in network.interfaces.iter().zip(places) {
        for (id, spot) in &place.references {
            let Some(found) = index
                .get(id.as_str())
                .and_then(|i| network.interfaces.get(*i))
            else {
                let near = near_miss(id, index.keys().copied());
                let hint = near
                    .map(|near| format!("; did you mean `{near}`?"))
                    .unwrap_or_default();
                cx.error(
                    spot,
                    format!("there is no interface {id:?} in this file{hint}"),
                );
                continue;
            };
            if !place.members {
                continue;
            }
            if let Some(first) = taken.insert(id, &interface.id) {
                cx.error(spot, format!("{id} is in {first} already"));
            }
            if found.dhcp4 || found.dhcp6 || !found.addresses.is_empty() {
                cx.warn(
                    spot,
                    format!(
                        "{id} has addresses of its own, which have no effect: {} has them",
                        interface.id
                    ),
                );
            }
        }
    }
    let mut state = vec![Visit::New; network.interfaces.len()];
    for start in 0..network.interfaces.len() {
        if circular(start, network, &index, &mut state)
            && let Some(place) = places.get(start)
        {
            cx.error(
                &place.own,
                "is made of itself, by way of the interfaces it refers to",
            );
            // Its neighbours on the circle would say the same.
            return;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

/// Whether a walk from `start` comes back to something that is still open. Iterative:
/// a chain may be as long as the text allows.
fn circular(
    start: usize,
    network: &Network,
    index: &BTreeMap<&str, usize>,
    state: &mut [Visit],
) -> bool {
    let mut stack = vec![(start, false)];
    while let Some((at, left)) = stack.pop() {
        let Some(visit) = state.get_mut(at) else {
            continue;
        };
        if left {
            *visit = Visit::Done;
            continue;
        }
        match *visit {
            Visit::Done => continue,
            Visit::Open => return true,
            Visit::New => *visit = Visit::Open,
        }
        stack.push((at, true));
        let needs = network
            .interfaces
            .get(at)
            .map(|interface| interface.kind.needs());
        for next in needs.into_iter().flatten().filter_map(|id| index.get(id)) {
            match state.get(*next) {
                Some(Visit::Open) => return true,
                Some(Visit::New) => stack.push((*next, false)),
                _ => {}
            }
        }
    }
    false
}
