//! The slot table: one slot for each connection that the pool has, is making or is closing. Pure.
//!
//! Time comes in as an argument, and whatever must be closed comes out: nothing here reads a
//! clock, touches a socket or runs code of the user's. `L` is what a lease consists of and lies in
//! the slot while the connection is idle; `H` is the pool's own handle on the connection, which
//! stays in the slot.

mod connects;
mod leaving;
mod open;
#[cfg(test)]
#[path = "../../tests/explore/state/slots.rs"]
mod test_access;

use std::time::Instant;

use crate::report::stats::{ConnectionInfo, State};
use connects::Connect;
use open::{Leased, Usage};

pub(crate) use leaving::Closed;
pub(crate) use open::{CallSite, Holder, Open, PING_THREAD, Taker};

/// A slot together with the connection in it, so that its next connection is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKey {
    pub(crate) index: u32,
    pub(crate) id: u64,
}

/// A connection on its way to a caller.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Lease<L> {
    pub(crate) key: SlotKey,
    pub(crate) client: L,
    /// Whether to ask the kernel first if it lives.
    pub(crate) probe: bool,
}

/// An idle connection that is out for a ping.
#[derive(Clone, Copy, Debug)]
struct Pinged {
    index: u32,
    idle_since: Instant,
}

/// `Vec<Slot>` with its transitions.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Slots<L, H> {
    all: Vec<Slot<L, H>>,
    vacant: Vec<u32>,
    /// Idle slots, the least recently used one first.
    idle: Vec<u32>,
    /// The one that is being pinged, which keeps its place among the idle ones. There is one at
    /// most, so to pass over it is no walk.
    pinged: Option<Pinged>,
    /// Slots whose connections wait to be closed.
    left: Vec<u32>,
    /// How many connections are open, idle or leased. What is idle is in the list, so a lease
    /// changes no count.
    open: usize,
    connecting: usize,
    closing: usize,
    /// How many of the connects under way nobody counts on any more.
    outdated: usize,
    /// The number of the factory in use; the first one has the number 1.
    factory: u64,
    next_id: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Slot<L, H> {
    id: u64,
    content: Content<L, H>,
}

impl<L, H> Slot<L, H> {
    const VACANT: Self = Self {
        id: 0,
        content: Content::Vacant,
    };

    fn open(&self) -> Option<&Open<L, H>> {
        match &self.content {
            Content::Open(open) => Some(open),
            _ => None,
        }
    }
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Content<L, H> {
    Vacant,
    Connecting(Connect<H>),
    Open(Open<L, H>),
    /// It has left the pool, and waits here to be closed unless somebody is at it.
    Closing(Option<Closed<L, H>>),
}

impl<L, H> Slots<L, H> {
    pub(crate) const fn new() -> Self {
        Self {
            all: Vec::new(),
            vacant: Vec::new(),
            idle: Vec::new(),
            pinged: None,
            left: Vec::new(),
            open: 0,
            connecting: 0,
            closing: 0,
            outdated: 0,
            factory: 1,
            next_id: 1,
        }
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.len() - usize::from(self.is_pinging())
    }

    pub(crate) fn leased(&self) -> usize {
        self.open - self.idle()
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How many slots have a connection that is in the pool or being made.
    pub(crate) fn in_use(&self) -> usize {
        self.open() + self.connecting
    }

    /// How many slots are not vacant.
    pub(crate) fn occupied(&self) -> usize {
        self.in_use() + self.closing
    }

    /// How many slots there are, vacant ones too: the range of the indices.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.all.len()).expect("bug: indices outgrew u32")
    }

    /// The most recently used idle connection.
    #[inline]
    pub(crate) fn newest(&self) -> Option<u32> {
        let last = *self.idle.last()?;
        if self.is_pinged(last) {
            return self.idle.iter().rev().nth(1).copied();
        }
        Some(last)
    }

    /// The least recently used idle connection.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.by_age().next()
    }

    /// The idle connections from the least to the most recently used.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = u32> + '_ {
        let all = self.idle.iter().copied();
        all.filter(|&index| !self.is_pinged(index))
    }

    /// Takes an idle connection out for a lease that began at `since`, and since when it had been
    /// idle.
    #[inline(always)]
    pub(crate) fn lease(
        &mut self,
        index: u32,
        since: Instant,
        taker: Taker,
    ) -> (Lease<L>, Instant) {
        if self.idle.last() == Some(&index) {
            self.idle.pop();
        } else {
            self.leave_idle(index);
        }
        self.take_out(index, since, taker)
    }

    /// Takes an idle connection out for a ping, which is no use of it: it keeps its place.
    pub(crate) fn lease_for_ping(
        &mut self,
        index: u32,
        now: Instant,
        holder: Option<Holder>,
    ) -> Lease<L> {
        debug_assert!(!self.is_pinging());
        let taker = Taker { at: None, holder };
        let (lease, idle_since) = self.take_out(index, now, taker);
        self.pinged = Some(Pinged { index, idle_since });
        let open = self.get_mut(lease.key);
        open.expect("bug: a ping of what is not open").pings += 1;
        lease
    }

    /// Whether a connection is out for a ping.
    pub(crate) fn is_pinging(&self) -> bool {
        self.pinged.is_some()
    }

    /// Takes this one off the idle ones, which is a walk: those that go for their age, or because
    /// they are too many, are the first ones.
    #[cold]
    fn leave_idle(&mut self, index: u32) {
        let place = self.idle.iter().position(|&other| other == index);
        self.idle.remove(place.expect("bug: it is not idle"));
    }

    #[inline]
    fn is_pinged(&self, index: u32) -> bool {
        self.pinged.is_some_and(|pinged| pinged.index == index)
    }

    #[inline(always)]
    fn take_out(&mut self, index: u32, since: Instant, taker: Taker) -> (Lease<L>, Instant) {
        let slot = &mut self.all[index as usize];
        let id = slot.id;
        let Content::Open(open) = &mut slot.content else {
            panic!("bug: lease of a slot that is not open");
        };
        let usage = Usage::Leased(Leased {
            taker,
            ..Leased::default()
        });
        let Usage::Idle { client } = std::mem::replace(&mut open.usage, usage) else {
            panic!("bug: lease of a leased slot");
        };
        let idle_since = std::mem::replace(&mut open.since, since);
        open.leases += 1;
        let lease = Lease {
            key: SlotKey { index, id },
            client,
            probe: false,
        };
        (lease, idle_since)
    }

    /// A lease is over and its connection idle: the most recently used one. After a ping it is as
    /// idle as before.
    #[inline(always)]
    pub(crate) fn make_idle(&mut self, key: SlotKey, client: L, now: Instant) {
        let pinged = self.pinged.take_if(|pinged| pinged.index == key.index);
        let open = self.get_mut(key).expect("bug: idle without a slot");
        let usage = std::mem::replace(&mut open.usage, Usage::Idle { client });
        assert!(matches!(usage, Usage::Leased(_)), "bug: idle already");
        drop(usage);
        open.since = pinged.map_or(now, |pinged| pinged.idle_since);
        open.answered = now;
        if pinged.is_none() {
            self.idle.push(key.index);
        }
    }

    /// The open connection of this key, unless it has left.
    #[inline]
    pub(crate) fn get(&self, key: SlotKey) -> Option<&Open<L, H>> {
        let slot = &self.all[key.index as usize];
        match &slot.content {
            Content::Open(open) if slot.id == key.id => Some(open),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: SlotKey) -> Option<&mut Open<L, H>> {
        let slot = &mut self.all[key.index as usize];
        match &mut slot.content {
            Content::Open(open) if slot.id == key.id => Some(open),
            _ => None,
        }
    }

    /// The open connection in this slot and its key, if there is one.
    pub(crate) fn open_in(&self, index: u32) -> Option<(SlotKey, &Open<L, H>)> {
        let open = self.all[index as usize].open()?;
        Some((self.key(index), open))
    }

    /// The connection in each slot, unless it is closing: without its addresses, but with the handle
    /// that knows them once it is open.
    pub(crate) fn connections(&self, now: Instant) -> Vec<(ConnectionInfo, Option<H>)>
    where
        H: Clone,
    {
        let show = |slot: &Slot<L, H>| {
            let (state, born, since) = match &slot.content {
                Content::Vacant | Content::Closing(_) => return None,
                Content::Connecting(connect) => (State::Connecting, connect.since, connect.since),
                Content::Open(open) if open.is_idle() => (State::Idle, open.born, open.since),
                Content::Open(open) => (State::Leased, open.born, open.since),
            };
            let info = ConnectionInfo {
                id: slot.id,
                state,
                local: None,
                peer: None,
                age: now.saturating_duration_since(born),
                in_state: now.saturating_duration_since(since),
                leases: slot.open().map_or(0, |open| open.leases),
                taken_at: slot.open().and_then(Open::taken_at),
            };
            Some((info, slot.open().map(|open| open.handle.clone())))
        };
        self.all.iter().filter_map(show).collect()
    }

    /// Where each lease that is out was taken.
    pub(crate) fn call_sites(&self) -> Vec<CallSite> {
        let open = self.all.iter().filter_map(Slot::open);
        open.filter_map(Open::taken_at).collect()
    }

    pub(crate) fn key(&self, index: u32) -> SlotKey {
        let id = self.all[index as usize].id;
        SlotKey { index, id }
    }

    fn slot(&self, key: SlotKey) -> &Slot<L, H> {
        &self.all[key.index as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::outcome::Eviction;
    use std::panic::Location;

    /// Slots whose clients are their own ids, on a clock that counts seconds.
    struct Clocked {
        slots: Slots<u64, ()>,
        begin: Instant,
    }

    impl Clocked {
        /// As many idle connections, idle since seconds 1, 2, 3 and so on.
        fn idle(count: u64) -> (Self, Vec<SlotKey>) {
            let mut clocked = Self {
                slots: Slots::new(),
                begin: Instant::now(),
            };
            let keys = (1..=count).map(|second| clocked.open(second)).collect();
            (clocked, keys)
        }

        fn at(&self, second: u64) -> Instant {
            self.begin + Duration::from_secs(second)
        }

        fn open(&mut self, second: u64) -> SlotKey {
            let now = self.at(second);
            let key = self.slots.reserve(now);
            self.slots.fill(key, (), now);
            self.slots.make_idle(key, key.id, now);
            key
        }

        fn close(&mut self, key: SlotKey) {
            let now = self.at(100);
            self.slots.close(key, Eviction::Freed, now, None);
            self.slots.vacate(key);
        }

        /// A caller uses this one, and gives it back in this second.
        fn use_once(&mut self, key: SlotKey, second: u64) {
            let now = self.at(second);
            let (lease, _) = self.slots.lease(key.index, now, Taker::default());
            self.slots.make_idle(lease.key, lease.client, now);
        }

        /// A ping of this one, during which something else happens.
        fn ping(&mut self, key: SlotKey, meanwhile: impl FnOnce(&mut Self)) {
            let now = self.at(100);
            let lease = self.slots.lease_for_ping(key.index, now, None);
            meanwhile(self);
            let Lease { key, client, .. } = lease;
            self.slots.make_idle(key, client, now);
        }

        fn order(&self) -> Vec<u64> {
            let by_age = self.slots.by_age();
            by_age.map(|index| self.slots.key(index).id).collect()
        }
    }

    #[test]
    fn a_ping_leaves_the_order_as_it_was() {
        let (mut clocked, keys) = Clocked::idle(3);
        for key in keys {
            clocked.ping(key, |_| ());
            assert_eq!(clocked.order(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_ping_of_connections_that_went_idle_in_one_instant_leaves_their_order() {
        let mut clocked = Clocked::idle(0).0;
        let keys: Vec<SlotKey> = (0..3).map(|_| clocked.open(7)).collect();
        for key in keys {
            clocked.ping(key, |_| ());
            assert_eq!(clocked.order(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_pinged_connection_does_not_follow_a_neighbour_that_was_used() {
        let (mut clocked, keys) = Clocked::idle(3);
        clocked.ping(keys[1], |clocked| clocked.use_once(keys[0], 50));
        assert_eq!(clocked.order(), [2, 3, 1]);
    }

    #[test]
    fn a_pinged_connection_finds_its_place_without_its_neighbour() {
        let (mut clocked, keys) = Clocked::idle(4);
        clocked.ping(keys[2], |clocked| clocked.close(keys[1]));
        assert_eq!(clocked.order(), [1, 3, 4]);
    }

    #[test]
    fn a_pinged_connection_does_not_mistake_a_later_other_for_its_neighbour() {
        let (mut clocked, keys) = Clocked::idle(4);
        clocked.ping(keys[2], |clocked| {
            clocked.close(keys[1]);
            let other = clocked.open(60);
            assert_eq!(other.index, keys[1].index);
        });
        assert_eq!(clocked.order(), [1, 3, 4, 5]);
    }

    #[test]
    fn a_pinged_connection_comes_home_to_none_or_to_newer_ones() {
        let (mut clocked, keys) = Clocked::idle(2);
        clocked.ping(keys[0], |clocked| clocked.close(keys[1]));
        assert_eq!(clocked.order(), [1]);
        clocked.ping(keys[0], |clocked| {
            clocked.open(70);
            clocked.open(80);
        });
        assert_eq!(clocked.order(), [1, 3, 4]);
    }

    #[test]
    fn a_ping_is_no_use_but_shows_that_the_connection_answers() {
        let (mut clocked, keys) = Clocked::idle(1);
        let idle_since = clocked.at(1);
        clocked.ping(keys[0], |_| ());
        let open = clocked.slots.get(keys[0]).unwrap();
        assert_eq!((open.since, open.answered), (idle_since, clocked.at(100)));
    }

    #[test]
    fn a_key_is_not_that_of_the_next_connection_in_its_slot() {
        let (mut clocked, keys) = Clocked::idle(1);
        clocked.close(keys[0]);
        let other = clocked.open(9);
        assert_eq!(other.index, keys[0].index);
        assert!(clocked.slots.get(keys[0]).is_none());
        assert!(clocked.slots.get_mut(keys[0]).is_none());
        assert!(clocked.slots.get(other).is_some());
    }

    #[test]
    fn counts_follow_a_connection_through_its_life() {
        let mut clocked = Clocked::idle(0).0;
        let now = clocked.at(1);
        let slots = &mut clocked.slots;
        let counts = |slots: &Slots<u64, ()>| {
            let (idle, leased, connecting) = (slots.idle(), slots.leased(), slots.connecting());
            let closing = slots.occupied() - slots.in_use();
            assert_eq!(slots.in_use(), idle + leased + connecting);
            (idle, leased, connecting, closing)
        };
        let failing = slots.reserve(now);
        let key = slots.reserve(now);
        assert_eq!(counts(slots), (0, 0, 2, 0));
        slots.abandon(failing);
        assert_eq!(counts(slots), (0, 0, 1, 0));
        slots.fill(key, (), now);
        assert_eq!(counts(slots), (0, 1, 0, 0));
        slots.make_idle(key, 7, now);
        assert_eq!(counts(slots), (1, 0, 0, 0));
        let (lease, _) = slots.lease(key.index, now, Taker::default());
        assert_eq!(counts(slots), (0, 1, 0, 0));
        let why = Eviction::Discarded;
        let closed = slots.close(key, why, now, Some(lease.client));
        assert_eq!(counts(slots), (0, 0, 0, 1));
        assert_eq!((closed.key, closed.client), (key, Some(7)));
        assert!(slots.get(key).is_none());
        slots.vacate(key);
        assert_eq!(counts(slots), (0, 0, 0, 0));
    }

    #[test]
    fn what_is_left_in_its_slot_occupies_it_until_it_was_closed() {
        let (mut clocked, keys) = Clocked::idle(2);
        let now = clocked.at(5);
        let slots = &mut clocked.slots;
        let closed = slots.close(keys[0], Eviction::PeerClosed, now, None);
        slots.leave(closed);
        assert_eq!((slots.in_use(), slots.occupied(), slots.left()), (1, 2, 1));
        let closed = slots.take_left().unwrap();
        assert_eq!((closed.client, slots.occupied()), (Some(keys[0].id), 2));
        assert!(slots.take_left().is_none());
        slots.vacate(closed.key);
        assert_eq!(
            (slots.occupied(), slots.reserve(now).index),
            (1, keys[0].index)
        );
    }
    #[test]
    fn the_call_sites_are_those_of_the_leases_that_are_out() {
        let (mut clocked, keys) = Clocked::idle(3);
        let now = clocked.at(9);
        let slots = &mut clocked.slots;
        assert!(slots.call_sites().is_empty());
        let (here, there) = (Location::caller(), Location::caller());
        for (key, at) in keys.iter().zip([here, there]) {
            let taker = Taker {
                at: Some(at),
                holder: None,
            };
            slots.lease(key.index, now, taker);
        }
        slots.lease_for_ping(keys[2].index, now, None);
        slots.reserve(now);
        assert_eq!(slots.call_sites(), [here, there]);
        let closed = slots.close(keys[0], Eviction::Discarded, now, None);
        assert_eq!((closed.key, slots.call_sites()), (keys[0], vec![there]));
    }
}
