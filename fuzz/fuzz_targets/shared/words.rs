//! What a hostile peer writes into words of shared memory: anything, and now and then what looks right.

use arbitrary::Arbitrary;
use libipc::lane::layout::{Claim, Hold, LaneStatus, SlotState, Verdict, VerdictState};
use libipc::lane::position::Position;
use libipc::lane::record::RecordHeader;

/// A word. Positions are counted from where the lanes begin.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Word {
    Raw(u64),
    Small(u8),
    Position(i16),
    Hold {
        confirmed: bool,
        lane: u8,
        at: i16,
    },
    Claim {
        winner: Option<u8>,
        at: i16,
    },
    Verdict {
        at: i16,
        state: u8,
    },
    /// The first word of a record.
    Record {
        len: u16,
        kind: u8,
        flags: u8,
    },
    /// The same, of a length that no lane has.
    LongRecord {
        len: u32,
    },
    Status {
        generation: u8,
        state: u8,
    },
    Bits(u8),
}

impl Word {
    /// The word itself.
    pub fn to_word(self, first: Position) -> u64 {
        let at = |offset: i16| match u64::try_from(offset) {
            Ok(ahead) => first.advance(ahead),
            Err(_) => first.back(offset.unsigned_abs().into()),
        };
        match self {
            Self::Raw(word) => word,
            Self::Small(word) => word.into(),
            Self::Position(offset) => at(offset).get(),
            Self::Hold { confirmed, lane, at: offset } => {
                Hold { confirmed, lane: u16::from(lane % 6), position: at(offset) }.to_word()
            }
            Self::Claim { winner, at: offset } => {
                let winner = winner.map(|slot| u16::from(slot % 12));
                Claim { position: at(offset), winner }.to_word()
            }
            Self::Verdict { at: offset, state } => {
                let states = [
                    VerdictState::Open,
                    VerdictState::Taken,
                    VerdictState::Withdrawn,
                    VerdictState::Cancelled,
                ];
                let state = states[usize::from(state % 4)];
                Verdict { position: at(offset), state }.to_word()
            }
            Self::Record { len, kind, flags } => {
                let (len, kind, flags) = (u32::from(len % 5000), kind % 4, flags % 4);
                RecordHeader { len, kind, flags, stamp: 0 }.word().get()
            }
            Self::LongRecord { len } => {
                RecordHeader { len, ..RecordHeader::default() }.word().get()
            }
            Self::Status { generation, state } => {
                let state = SlotState::from_word(u32::from(state % 4));
                LaneStatus { generation: u32::from(generation % 3), state }.to_word()
            }
            Self::Bits(bits) => u64::from(bits),
        }
    }
}
