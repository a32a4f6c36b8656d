//! What the tests see of the slots, and what makes two slot tables the same.

use super::connects::{Connect, GIVEN_UP};
use super::open::Leased;
use super::{Content, Open, Pinged, Slot, Slots, Usage};
use crate::explore::Digest;

impl<L, H> Slots<L, H> {
    /// The client of the idle connection in this slot.
    pub(crate) fn idle_client(&self, index: u32) -> &L {
        match &self.all[index as usize].content {
            Content::Open(Open {
                usage: Usage::Idle { client },
                ..
            }) => client,
            _ => panic!("no idle connection among the idle ones"),
        }
    }

    /// How many slots have each kind of content: idle, leased, connecting, closing.
    pub(crate) fn counted(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for slot in &self.all {
            match &slot.content {
                Content::Vacant => {}
                Content::Open(open) => counts[usize::from(!open.is_idle())] += 1,
                Content::Connecting(_) => counts[2] += 1,
                Content::Closing(_) => counts[3] += 1,
            }
        }
        counts
    }

    /// What is to come depends on this alone.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        let Self {
            all,
            vacant,
            idle,
            pinged,
            left,
            open: _,
            connecting: _,
            closing: _,
            outdated: _,
            factory: current,
            next_id: _,
        } = self;
        digest.put(all.len() as u64);
        for Slot { id, content } in all {
            digest.id(*id);
            match content {
                Content::Vacant => digest.put(0),
                Content::Connecting(Connect {
                    since: _,
                    factory,
                    handle,
                }) => {
                    digest.put(1 + u64::from(factory == current));
                    digest.put(u64::from(*factory == GIVEN_UP) + 2 * u64::from(handle.is_some()));
                }
                Content::Open(open) => open.digest(digest),
                Content::Closing(closed) => digest.put(5 + u64::from(closed.is_some())),
            }
        }
        for &index in vacant.iter().chain(left).chain(idle) {
            digest.put(u64::from(index));
        }
        if let Some(Pinged { index, idle_since }) = pinged {
            digest.put(u64::from(*index));
            digest.idle_age(*idle_since);
        }
    }
}

impl<L, H> Open<L, H> {
    fn digest(&self, digest: &mut Digest) {
        let Self {
            handle: _,
            usage,
            born: _,
            since,
            answered,
            expires,
            leases,
            pings: _,
        } = self;
        match usage {
            Usage::Idle { .. } => digest.put(3),
            Usage::Leased(Leased {
                doom,
                is_told: _,
                taker,
            }) => {
                digest.put(4);
                digest.put(doom.map_or(0, |why| 1 + why as u64));
                digest.put(u64::from(taker.holder.is_some()));
            }
        }
        digest.idle_age(*since);
        digest.silence(*answered);
        digest.due(*expires);
        digest.put((*leases).min(2));
    }
}
