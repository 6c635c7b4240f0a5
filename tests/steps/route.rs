//! The way through an operation: where one who goes it again may run on, and need not step.

use std::collections::HashSet;

/// The way through an operation, for those who are to go it again: where one may run on, and need not step.
#[derive(Default)]
pub(crate) struct Route {
    /// The address before each step.
    pub(crate) addresses: Vec<u64>,
    /// For each step the last one up to it whose address nothing before it has, since the last event.
    landings: Vec<u64>,
    /// The steps in which the process passes a marker.
    pub(crate) markers: Vec<u64>,
    /// The steps in which it goes to sleep.
    pub(crate) asleep: Vec<u64>,
    /// Those, and the steps in which it comes back.
    events: Vec<u64>,
}

impl Route {
    pub(crate) fn new(addresses: &[u64], markers: &[u64], asleep: &[u64]) -> Self {
        // Behind a sleep it is the call's return that is a step.
        let returns = asleep.iter().map(|step| step + 1);
        let mut events: Vec<_> = markers.iter().chain(asleep).copied().chain(returns).collect();
        events.sort_unstable();
        let (mut landings, mut seen, mut last) = (Vec::new(), HashSet::new(), 0);
        for (step, &address) in (0..).zip(addresses) {
            if events.binary_search(&step).is_ok() {
                seen.clear();
                last = step;
            }
            if seen.insert(address) {
                last = step;
            }
            landings.push(last);
        }
        let (addresses, markers, asleep) = (addresses.into(), markers.into(), asleep.into());
        Self { addresses, landings, markers, asleep, events }
    }

    /// How far, and to which address, a process may run that has gone so many steps and is to go so many.
    pub(crate) fn ahead(&self, steps: u64, to: u64) -> Option<(u64, u64)> {
        let next = self.events[self.events.partition_point(|&event| event <= steps)..].first();
        // The last step before an event is one that is gone by itself.
        let to = to.min(next.map_or(u64::MAX, |event| event - 1));
        let landing = *self.landings.get(to as usize)?;
        (landing > steps + 1).then(|| (landing, self.addresses[landing as usize]))
    }
}
