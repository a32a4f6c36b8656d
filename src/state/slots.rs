//! The slot table: one slot for each connection that the pool has or is making. Pure.
//!
//! Time comes in as an argument, and whatever must be closed comes out: nothing here reads a
//! clock, touches a socket or runs foreign code. `L` is what a lease consists of and lies in the
//! slot while the connection is idle; `H` is the pool's own handle on the connection, which stays
//! in the slot.

use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::report::outcome::Eviction;
use crate::report::stats::State;
use crate::state::list::Order;

/// A slot together with the connection in it, so that a later tenant is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) id: u64,
}

/// A connection on its way out of the table: to a caller, or to be closed.
#[derive(Debug)]
pub(crate) struct Lease<L> {
    pub(crate) place: Place,
    pub(crate) held: L,
    /// Since when it had been idle.
    pub(crate) idle_since: Instant,
}

/// A connection that has left the table; to be dropped once the lock is free.
#[derive(Debug)]
pub(crate) struct Closed<L, H> {
    pub(crate) id: u64,
    pub(crate) why: Eviction,
    pub(crate) age: Duration,
    /// What was parked in the slot, or came back with the lease.
    pub(crate) held: Option<L>,
    pub(crate) handle: H,
    /// Whether its lease is still out, so that it must be shut down.
    pub(crate) cut: bool,
    /// Whether its eviction is to be told now; else the table keeps that for later.
    pub(crate) tell: bool,
}

/// `Vec<Slot>` with its transitions.
#[derive(Debug)]
pub(crate) struct Slots<L, H> {
    all: Vec<Slot<L, H>>,
    vacant: Vec<u32>,
    /// Idle slots, the least recently used one first.
    idle: Order,
    leased: usize,
    connecting: usize,
    /// How many of those use a factory that has been replaced.
    outdated: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Slot<L, H> {
    id: u64,
    content: Content<L, H>,
}

#[derive(Debug)]
enum Content<L, H> {
    Vacant,
    Connecting { since: Instant, outdated: bool },
    Open(Open<L, H>),
}

/// An open connection: idle while something is parked in it, else leased.
#[derive(Debug)]
pub(crate) struct Open<L, H> {
    pub(crate) handle: H,
    parked: Option<L>,
    pub(crate) born: Instant,
    /// When it became idle, or its lease began; the last look at the clock before that, where
    /// nobody looked then.
    pub(crate) since: Instant,
    /// When it last proved to answer: came back from a lease or a ping.
    pub(crate) tended: Instant,
    /// When it is too old.
    pub(crate) expires: Option<Instant>,
    pub(crate) leases: u64,
    /// Why it is to close when it comes back.
    pub(crate) doom: Option<Eviction>,
    /// Who took the lease, until it has been reported overdue.
    pub(crate) holder: Option<Thread>,
}

impl<L, H> Open<L, H> {
    pub(crate) fn is_idle(&self) -> bool {
        self.parked.is_some()
    }

    /// Whether its first lease began at the moment of its birth.
    pub(crate) fn never_rested(&self) -> bool {
        self.leases == 1 && self.since == self.born
    }

    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl<L, H> Slots<L, H> {
    pub(crate) const fn new() -> Self {
        Self {
            all: Vec::new(),
            vacant: Vec::new(),
            idle: Order::new(),
            leased: 0,
            connecting: 0,
            outdated: 0,
            next_id: 1,
        }
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn leased(&self) -> usize {
        self.leased
    }

    pub(crate) fn connecting(&self) -> usize {
        self.connecting
    }

    /// How many connects are under way through the factory that is in use now.
    pub(crate) fn connecting_anew(&self) -> usize {
        self.connecting - self.outdated
    }

    pub(crate) fn open(&self) -> usize {
        self.idle() + self.leased
    }

    pub(crate) fn occupied(&self) -> usize {
        self.open() + self.connecting
    }

    /// How many slots there are, vacant ones too: the range of the indices.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.all.len()).expect("bug: indices outgrew u32")
    }

    /// Takes a slot for a connection that is to be made.
    pub(crate) fn reserve(&mut self, now: Instant) -> Place {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(Slot {
                id: 0,
                content: Content::Vacant,
            });
            self.len() - 1
        });
        let id = self.next_id;
        self.next_id += 1;
        let slot = &mut self.all[index as usize];
        debug_assert!(matches!(slot.content, Content::Vacant));
        *slot = Slot {
            id,
            content: Content::Connecting {
                since: now,
                outdated: false,
            },
        };
        self.connecting += 1;
        Place { index, id }
    }

    /// The factory has been replaced: the connects under way are those of the one before.
    pub(crate) fn outdate_connects(&mut self) {
        for slot in &mut self.all {
            if let Content::Connecting { outdated, .. } = &mut slot.content {
                *outdated = true;
            }
        }
        self.outdated = self.connecting;
    }

    /// Whether this connect, which is under way, uses a factory that has been replaced.
    pub(crate) fn is_outdated(&self, place: Place) -> bool {
        matches!(
            self.slot(place).content,
            Content::Connecting { outdated: true, .. }
        )
    }

    /// The connection was not made: its slot is vacant again.
    pub(crate) fn abandon(&mut self, place: Place) {
        self.end_connect(place);
        self.vacate(place);
    }

    fn end_connect(&mut self, place: Place) {
        debug_assert!(matches!(
            self.slot(place).content,
            Content::Connecting { .. }
        ));
        self.outdated -= usize::from(self.is_outdated(place));
        self.connecting -= 1;
    }

    /// The connection was made, and counts as leased until it is parked or handed out.
    pub(crate) fn fill(&mut self, place: Place, handle: H, now: Instant, expires: Option<Instant>) {
        self.end_connect(place);
        self.all[place.index as usize].content = Content::Open(Open {
            handle,
            parked: None,
            born: now,
            since: now,
            tended: now,
            expires,
            leases: 0,
            doom: None,
            holder: None,
        });
        self.leased += 1;
    }

    /// The most recently used idle connection.
    pub(crate) fn newest(&self) -> Option<u32> {
        self.idle.last()
    }

    /// The least recently used idle connection.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.idle.first()
    }

    /// The idle connections from the least to the most recently used.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = u32> + '_ {
        self.idle.iter()
    }

    /// Takes an idle connection out for a lease that began at `since`.
    pub(crate) fn lease(&mut self, index: u32, since: Instant) -> Lease<L> {
        let slot = &mut self.all[index as usize];
        let Content::Open(open) = &mut slot.content else {
            panic!("bug: lease of a slot that is not open");
        };
        let held = open.parked.take().expect("bug: lease of a leased slot");
        let idle_since = std::mem::replace(&mut open.since, since);
        open.leases += 1;
        self.idle.remove(index);
        self.leased += 1;
        let id = slot.id;
        Lease {
            place: Place { index, id },
            held,
            idle_since,
        }
    }

    /// Takes an idle connection out for a ping, which is no use of it.
    ///
    /// Returns what [`park_after_ping`](Self::park_after_ping) wants to know.
    pub(crate) fn lease_for_ping(&mut self, index: u32) -> (Lease<L>, Pinged) {
        let idle_since = self.open_at(index).since;
        let neighbour = self.idle.before(index).map(|index| self.place(index));
        let lease = self.lease(index, idle_since);
        (
            lease,
            Pinged {
                idle_since,
                neighbour,
            },
        )
    }

    /// A lease is over and its connection idle: the most recently used one.
    pub(crate) fn park(&mut self, place: Place, held: L, now: Instant) {
        self.put(place, held, now, now);
        self.idle.push_last(place.index);
    }

    /// A ping is over: the connection is as idle as before, at its place in the order.
    pub(crate) fn park_after_ping(&mut self, place: Place, held: L, pinged: &Pinged, now: Instant) {
        let since = pinged.idle_since;
        let mut anchor = pinged
            .neighbour
            .filter(|&neighbour| {
                self.get(neighbour)
                    .is_some_and(|open| open.is_idle() && open.since <= since)
            })
            .map(|neighbour| neighbour.index);
        let mut next = anchor.map_or(self.idle.first(), |index| self.idle.after(index));
        while let Some(index) = next.filter(|&index| self.open_at(index).since < since) {
            anchor = Some(index);
            next = self.idle.after(index);
        }
        self.put(place, held, since, now);
        self.idle.insert_after(anchor, place.index);
    }

    fn put(&mut self, place: Place, held: L, since: Instant, tended: Instant) {
        let open = self.get_mut(place).expect("bug: parked without a slot");
        debug_assert!(!open.is_idle());
        open.parked = Some(held);
        open.since = since;
        open.tended = tended;
        open.holder = None;
        self.leased -= 1;
    }

    /// Takes an open connection, idle or leased, out of the table.
    pub(crate) fn close(
        &mut self,
        place: Place,
        why: Eviction,
        now: Instant,
        returned: Option<L>,
    ) -> Closed<L, H> {
        let slot = &mut self.all[place.index as usize];
        let content = std::mem::replace(&mut slot.content, Content::Vacant);
        let Content::Open(open) = content else {
            panic!("bug: closed a slot that is not open");
        };
        if open.is_idle() {
            self.idle.remove(place.index);
        } else {
            self.leased -= 1;
        }
        self.vacate(place);
        Closed {
            id: place.id,
            why,
            age: now.saturating_duration_since(open.born),
            held: open.parked.or(returned),
            handle: open.handle,
            cut: false,
            tell: true,
        }
    }

    fn vacate(&mut self, place: Place) {
        self.all[place.index as usize] = Slot {
            id: 0,
            content: Content::Vacant,
        };
        self.vacant.push(place.index);
    }

    /// The open connection at this place, unless it has left.
    pub(crate) fn get(&self, place: Place) -> Option<&Open<L, H>> {
        match self.slot(place) {
            Slot {
                id,
                content: Content::Open(open),
            } if *id == place.id => Some(open),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Open<L, H>> {
        match &mut self.all[place.index as usize] {
            Slot {
                id,
                content: Content::Open(open),
            } if *id == place.id => Some(open),
            _ => None,
        }
    }

    /// The open connection in this slot and its place, if there is one.
    pub(crate) fn open_in(&self, index: u32) -> Option<(Place, &Open<L, H>)> {
        let slot = &self.all[index as usize];
        match &slot.content {
            Content::Open(open) => Some((self.place(index), open)),
            _ => None,
        }
    }

    /// The connection in each occupied slot: its id, its state, when it was born or begun, when
    /// it entered its state, its leases and, once it is open, the pool's handle.
    pub(crate) fn occupants(
        &self,
    ) -> impl Iterator<Item = (u64, State, Instant, Instant, u64, Option<&H>)> {
        self.all.iter().filter_map(|slot| match &slot.content {
            Content::Vacant => None,
            Content::Connecting { since, .. } => {
                Some((slot.id, State::Connecting, *since, *since, 0, None))
            }
            Content::Open(open) => {
                let state = if open.is_idle() {
                    State::Idle
                } else {
                    State::Leased
                };
                let handle = Some(&open.handle);
                Some((slot.id, state, open.born, open.since, open.leases, handle))
            }
        })
    }

    pub(crate) fn place(&self, index: u32) -> Place {
        Place {
            index,
            id: self.all[index as usize].id,
        }
    }

    fn slot(&self, place: Place) -> &Slot<L, H> {
        &self.all[place.index as usize]
    }

    fn open_at(&self, index: u32) -> &Open<L, H> {
        match &self.all[index as usize].content {
            Content::Open(open) => open,
            _ => panic!("bug: an idle slot is not open"),
        }
    }
}

/// Where a connection that is being pinged belongs among the idle ones.
#[derive(Debug)]
pub(crate) struct Pinged {
    idle_since: Instant,
    neighbour: Option<Place>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots whose clients are their own ids, on a clock that counts seconds.
    struct Clocked {
        slots: Slots<u64, ()>,
        begin: Instant,
    }

    impl Clocked {
        /// As many idle connections, parked in seconds 1, 2, 3 and so on.
        fn idle(count: u64) -> (Self, Vec<Place>) {
            let mut clocked = Self {
                slots: Slots::new(),
                begin: Instant::now(),
            };
            let places = (1..=count).map(|second| clocked.open(second)).collect();
            (clocked, places)
        }

        fn at(&self, second: u64) -> Instant {
            self.begin + Duration::from_secs(second)
        }

        fn open(&mut self, second: u64) -> Place {
            let now = self.at(second);
            let place = self.slots.reserve(now);
            self.slots.fill(place, (), now, None);
            self.slots.park(place, place.id, now);
            place
        }

        fn close(&mut self, place: Place) {
            let now = self.at(100);
            self.slots.close(place, Eviction::Freed, now, None);
        }

        /// A caller uses this one, and gives it back in this second.
        fn use_once(&mut self, place: Place, second: u64) {
            let now = self.at(second);
            let lease = self.slots.lease(place.index, now);
            self.slots.park(lease.place, lease.held, now);
        }

        /// A ping of this one, during which something else happens.
        fn ping(&mut self, place: Place, meanwhile: impl FnOnce(&mut Self)) {
            let (lease, pinged) = self.slots.lease_for_ping(place.index);
            meanwhile(self);
            let now = self.at(100);
            let Lease { place, held, .. } = lease;
            self.slots.park_after_ping(place, held, &pinged, now);
        }

        fn order(&self) -> Vec<u64> {
            let by_age = self.slots.by_age();
            by_age.map(|index| self.slots.place(index).id).collect()
        }
    }

    #[test]
    fn a_ping_leaves_the_order_as_it_was() {
        let (mut clocked, places) = Clocked::idle(3);
        for place in places {
            clocked.ping(place, |_| ());
            assert_eq!(clocked.order(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_ping_of_connections_that_went_idle_in_one_instant_leaves_their_order() {
        let mut clocked = Clocked::idle(0).0;
        let places: Vec<Place> = (0..3).map(|_| clocked.open(7)).collect();
        for place in places {
            clocked.ping(place, |_| ());
            assert_eq!(clocked.order(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_pinged_connection_does_not_follow_a_neighbour_that_was_used() {
        let (mut clocked, places) = Clocked::idle(3);
        clocked.ping(places[1], |clocked| clocked.use_once(places[0], 50));
        assert_eq!(clocked.order(), [2, 3, 1]);
    }

    #[test]
    fn a_pinged_connection_finds_its_place_without_its_neighbour() {
        let (mut clocked, places) = Clocked::idle(4);
        clocked.ping(places[2], |clocked| clocked.close(places[1]));
        assert_eq!(clocked.order(), [1, 3, 4]);
    }

    #[test]
    fn a_pinged_connection_does_not_mistake_a_later_tenant_for_its_neighbour() {
        let (mut clocked, places) = Clocked::idle(4);
        clocked.ping(places[2], |clocked| {
            clocked.close(places[1]);
            let tenant = clocked.open(60);
            assert_eq!(tenant.index, places[1].index);
        });
        assert_eq!(clocked.order(), [1, 3, 4, 5]);
    }

    #[test]
    fn a_pinged_connection_comes_home_to_none_or_to_newer_ones() {
        let (mut clocked, places) = Clocked::idle(2);
        clocked.ping(places[0], |clocked| clocked.close(places[1]));
        assert_eq!(clocked.order(), [1]);
        clocked.ping(places[0], |clocked| {
            clocked.open(70);
            clocked.open(80);
        });
        assert_eq!(clocked.order(), [1, 3, 4]);
    }

    #[test]
    fn a_ping_is_no_use_but_shows_that_the_connection_answers() {
        let (mut clocked, places) = Clocked::idle(1);
        let idle_since = clocked.at(1);
        clocked.ping(places[0], |_| ());
        let open = clocked.slots.get(places[0]).unwrap();
        assert_eq!((open.since, open.tended), (idle_since, clocked.at(100)));
    }

    #[test]
    fn a_place_is_not_its_next_tenant() {
        let (mut clocked, places) = Clocked::idle(1);
        clocked.close(places[0]);
        let tenant = clocked.open(9);
        assert_eq!(tenant.index, places[0].index);
        assert!(clocked.slots.get(places[0]).is_none());
        assert!(clocked.slots.get_mut(places[0]).is_none());
        assert!(clocked.slots.get(tenant).is_some());
    }

    #[test]
    fn counts_follow_a_connection_through_its_life() {
        let mut clocked = Clocked::idle(0).0;
        let now = clocked.at(1);
        let slots = &mut clocked.slots;
        let counts = |slots: &Slots<u64, ()>| {
            let (idle, leased, connecting) = (slots.idle(), slots.leased(), slots.connecting());
            assert_eq!(slots.occupied(), idle + leased + connecting);
            (idle, leased, connecting)
        };
        let failing = slots.reserve(now);
        let place = slots.reserve(now);
        assert_eq!(counts(slots), (0, 0, 2));
        slots.abandon(failing);
        assert_eq!(counts(slots), (0, 0, 1));
        slots.fill(place, (), now, None);
        assert_eq!(counts(slots), (0, 1, 0));
        slots.park(place, 7, now);
        assert_eq!(counts(slots), (1, 0, 0));
        let lease = slots.lease(place.index, now);
        assert_eq!(counts(slots), (0, 1, 0));
        let closed = slots.close(place, Eviction::Discarded, now, Some(lease.held));
        assert_eq!(counts(slots), (0, 0, 0));
        assert_eq!((closed.id, closed.held), (place.id, Some(7)));
    }
}
