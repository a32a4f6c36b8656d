//! How connections leave, and what is told of it.

use super::*;

impl Walk {
    pub(super) fn shed(&mut self, count: usize, why: Eviction, expected: &mut Expected) {
        for _ in 0..count {
            let conn = self.idle.remove(0);
            self.close(&conn, why, expected);
        }
    }

    /// A connection with its client is handed out to be closed.
    pub(super) fn close(&mut self, conn: &Conn, why: Eviction, expected: &mut Expected) {
        let gone = self.depart(conn, why);
        self.hand_out(conn.key, gone, expected);
    }

    pub(super) fn abort(&mut self, conn: &Conn, why: Eviction, expected: &mut Expected) {
        let gone = Gone {
            has_value: false,
            is_aborted: true,
            ..self.depart(conn, why)
        };
        self.hand_out(conn.key, gone, expected);
        self.aborted += 1;
    }

    pub(super) fn hand_out(&mut self, key: SlotKey, gone: Gone, expected: &mut Expected) {
        expected.gone.push(gone);
        self.closing.push(key);
        self.handed_out += 1;
    }

    /// A connection is neither idle nor leased any more.
    pub(super) fn depart(&mut self, conn: &Conn, why: Eviction) -> Gone {
        let id = conn.key.id;
        self.counts.releases += 1;
        self.evictions[why as usize] += 1;
        let held = conn
            .is_told
            .then(|| self.clock.saturating_duration_since(conn.since));
        if let Some(held) = held {
            self.counts.lease_times.record(held);
        }
        let is_told = !self.reporting.contains(&id);
        if !is_told {
            self.unreported
                .extend(held.map(|held| (id, Said::Returned(held))));
            self.unreported.push((id, Said::Evicted(why)));
        }
        Gone {
            id,
            why: why as usize,
            has_value: true,
            is_aborted: false,
            occupies: true,
            is_told,
            held,
        }
    }

    /// This is to be told now, unless somebody is reporting of the same connection.
    pub(super) fn begin_reporting(&mut self, id: u64, said: Said) -> Option<(u64, Said)> {
        if self.reporting.contains(&id) {
            self.unreported.push((id, said));
            return None;
        }
        self.reporting.push(id);
        Some((id, said))
    }
}
