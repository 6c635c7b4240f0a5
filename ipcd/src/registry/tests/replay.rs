//! A registry that follows the records of another has the same in it.

use std::collections::{BTreeSet, HashMap};

use proptest::proptest;

use super::{LIMITS, apply, step};
use crate::registry::Registry;
use crate::registry::journal::{Record, Touched};
use crate::registry::quota::Quotas;

fn empty() -> Registry {
    Registry::new(Quotas::new(LIMITS, HashMap::new()), 0)
}

fn bytes(registry: &Registry, touched: &Touched) -> Vec<u8> {
    postcard::to_stdvec(&registry.changes(touched)).unwrap()
}

fn read(bytes: &[u8]) -> Record {
    let (record, rest) = postcard::take_from_bytes(bytes).unwrap();
    assert!(rest.is_empty());
    record
}

/// Holds that two registries have the same in them: what is recorded, and what follows from it.
fn same(one: &mut Registry, other: &mut Registry) {
    assert_eq!(bytes(one, &one.everything()), bytes(other, &other.everything()));
    assert_eq!(one.names, other.names);
    assert_eq!(one.inboxes, other.inboxes);
    let used = |it: &Registry| it.quotas.users().collect::<HashMap<_, _>>();
    assert_eq!(used(one), used(other));
    let owned = |it: &Registry| {
        it.sessions.iter().map(|(&id, it)| (id, it.owned.clone())).collect::<Vec<_>>()
    };
    assert_eq!(owned(one), owned(other));
    let ids: Vec<u64> = one.mailbox_ids().collect();
    for id in ids {
        let (one, other) = (one.mailbox_mut(id).unwrap(), other.mailbox_mut(id).unwrap());
        assert_eq!(one.links, other.links);
        assert_eq!(one.check_lane_room(), other.check_lane_room());
        let gone = |lanes: Vec<u16>| lanes.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(gone(one.next_gone_lanes(999)), gone(other.next_gone_lanes(999)));
    }
}

proptest! {
    #[test]
    fn a_registry_that_follows_every_record_has_the_same_in_it(
        steps in proptest::collection::vec(step(), 1..80),
        whole in 0usize..80,
    ) {
        let (mut registry, mut follower) = (empty(), empty());
        for (number, step) in steps.iter().enumerate() {
            apply(&mut registry, step);
            let touched = registry.take_touched();
            let changes = bytes(&registry, &touched);
            follower.follow(read(&changes));
            // A second time, as after a death at the wrong moment: no harm.
            follower.follow(read(&changes));
            if number == whole {
                follower = empty();
                follower.follow(read(&bytes(&registry, &registry.everything())));
            }
        }
        follower.complete();
        assert_eq!(follower.check_invariants(), Ok(()));
        same(&mut registry, &mut follower);
        // And they go on alike.
        for step in &steps {
            apply(&mut registry, step);
            apply(&mut follower, step);
        }
        same(&mut registry, &mut follower);
    }
}
