//! What may become of a message when somebody dies, and whether it did.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use tests::numbered::Entry;

/// What may become of one message.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) sender: u32,
    pub(crate) number: u64,
    times: RangeInclusive<u32>,
    attempts: RangeInclusive<u32>,
}

impl Fate {
    /// It comes once, and nobody has had it before.
    pub(crate) fn comes(sender: u32, number: u64) -> Self {
        Self { sender, number, times: 1..=1, attempts: 0..=0 }
    }

    /// It comes once or not at all.
    pub(crate) fn may_come(sender: u32, number: u64) -> Self {
        Self { times: 0..=1, ..Self::comes(sender, number) }
    }

    /// It comes, if at all, as it was to.
    pub(crate) fn perhaps(self) -> Self {
        Self { times: 0..=*self.times.end(), ..self }
    }

    /// If it comes it has been handed out so often before.
    pub(crate) fn had_by(self, attempts: RangeInclusive<u32>) -> Self {
        Self { attempts, ..self }
    }
}

/// Holds what was received to what may have become of the messages.
pub(crate) fn check(got: &[Entry], fates: &[Fate]) {
    let mut times: HashMap<(u32, u64), u32> = HashMap::new();
    for entry in got {
        let key = (entry.sender, entry.number);
        *times.entry(key).or_default() += 1;
        let fate = fates.iter().find(|fate| (fate.sender, fate.number) == key);
        let fate = fate.unwrap_or_else(|| panic!("{entry:?} was never sent: {got:?}"));
        assert!(fate.attempts.contains(&entry.attempts), "{entry:?} is marked wrongly: {fate:?}");
    }
    for fate in fates {
        let came = times.get(&(fate.sender, fate.number)).copied().unwrap_or_default();
        assert!(fate.times.contains(&came), "came {came} times: {fate:?}: {got:?}");
    }
}

/// Holds that of one sender's messages none is missing before the last that was received.
pub(crate) fn check_none_is_missing(got: &[Entry], sender: u32) {
    let has = |number| got.iter().any(|entry| (entry.sender, entry.number) == (sender, number));
    let first_missing = (0..).find(|&number| !has(number)).unwrap_or_default();
    let numbers = got.iter().filter(|entry| entry.sender == sender).map(|entry| entry.number);
    let beyond = numbers.max().filter(|&last| last > first_missing);
    assert_eq!(beyond, None, "number {first_missing} of sender {sender} is missing");
}
