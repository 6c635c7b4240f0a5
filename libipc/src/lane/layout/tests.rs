use super::*;

#[test]
fn words_survive_being_put_together_and_taken_apart() {
    let position = Position::new((1 << 48) - 1);
    for lane in [0, LANES_MAX - 1] {
        for confirmed in [false, true] {
            let hold = Hold { confirmed, lane, position };
            assert_eq!(Hold::from_word(hold.to_word()), Some(hold));
        }
    }
    assert_eq!(Hold::from_word(Hold::IDLE), None);
    for winner in [None, Some(0), Some(RECEIVERS_MAX - 1)] {
        let claim = Claim { position, winner };
        assert_eq!(Claim::from_word(claim.to_word()), claim);
    }
    for freed in [0, 1, u32::MAX] {
        let waiting = Waiting::new(position, freed);
        assert_eq!(Waiting::from_word(waiting.to_word()), Some(waiting));
        assert_eq!(Waiting::from_word(waiting.to_word() | Waiting::WATCHED), Some(waiting));
        assert_eq!(waiting.to_word() & Waiting::WATCHED, 0);
        assert!(!waiting.is_rung(freed));
        assert!((1..1 << 13).all(|rings| waiting.is_rung(freed.wrapping_add(rings))));
    }
    // Of a library that knew nothing of it.
    let waiting = Waiting::from_word(9 << 1 | 1).expect("it waits");
    assert!(waiting.wanted == Position::new(9) && !waiting.is_rung(1));
    assert_eq!(Waiting::from_word(Waiting::AWAKE), None);
    assert_eq!(Waiting::from_word(Waiting::WATCHED), None);
    for state in [VerdictState::Open, VerdictState::Taken, VerdictState::Withdrawn] {
        let verdict = Verdict { position, state };
        assert_eq!(Verdict::from_word(verdict.to_word()), verdict);
    }
    let status = LaneStatus { generation: u32::MAX, state: SlotState::Gone };
    assert_eq!(LaneStatus::from_word(status.to_word()), status);
}

#[test]
fn an_all_zero_region_is_an_idle_one() {
    assert_eq!(Claim::from_word(0), Claim { position: Position::new(0), winner: None });
    assert_eq!(Hold::from_word(0), None);
    assert_eq!(SlotState::from_word(0), SlotState::Free);
}
