//! The pool's numbers in Prometheus' text format, by the names that OpenTelemetry has for them.
//!
//! Names, states and units are those of its conventions for [pools of database connections][names],
//! written by [its rules for Prometheus][spelling]: `db.client.connection.wait_time` in seconds is
//! `db_client_connection_wait_time_seconds`. What the conventions have no name for is `jackpot_…`.
//! Their `idle.max` and `idle.min` are not here: this pool bounds what is idle by its limit only.
//!
//! [names]: https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools
//! [spelling]: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/

use std::fmt::{Display, Write};
use std::time::Duration;

use jackpot::{Eviction, Histogram, Stats};

/// `name` is the pool's, unique in the program; its server's address for instance.
pub(crate) fn text(stats: &Stats, outage: bool, name: &str) -> String {
    let name = name.replace('\\', r"\\").replace('"', "\\\"");
    let name = name.replace('\n', r"\n");
    let mut page = Page {
        pool: format!("db_client_connection_pool_name=\"{name}\""),
        text: String::new(),
    };
    page.connection_pool(stats);
    page.what_has_no_name(stats, outage);
    page.text
}

struct Page {
    /// The label that every line has.
    pool: String,
    text: String,
}

impl Page {
    fn connection_pool(&mut self, stats: &Stats) {
        let name = "db_client_connection_count";
        self.head(name, "gauge", "open connections, by state");
        for (state, count) in [("idle", stats.idle), ("used", stats.leased)] {
            let label = format!(",db_client_connection_state=\"{state}\"");
            self.line(name, &label, count);
        }
        self.number(
            "db_client_connection_max",
            "gauge",
            "connections that the pool may have",
            stats.limit,
        );
        self.number(
            "db_client_connection_pending_requests",
            "gauge",
            "threads that wait for a connection",
            stats.waiting,
        );
        self.number(
            "db_client_connection_timeouts_total",
            "counter",
            "calls that got no connection in time",
            stats.timeouts,
        );
        self.histogram(
            "db_client_connection_wait_time_seconds",
            "how long calls waited for a connection, if they had to",
            &stats.wait_times,
        );
        self.histogram(
            "db_client_connection_create_time_seconds",
            "how long it took to make a connection",
            &stats.connect_times,
        );
        self.histogram(
            "db_client_connection_use_time_seconds",
            "from when a connection was handed out until it came back",
            &stats.lease_times,
        );
    }

    fn what_has_no_name(&mut self, stats: &Stats, outage: bool) {
        self.number(
            "jackpot_outage",
            "gauge",
            "1 while no connection can be made",
            u8::from(outage),
        );
        self.number(
            "jackpot_connecting",
            "gauge",
            "connections that are being made",
            stats.connecting,
        );
        self.number(
            "jackpot_allocations_total",
            "counter",
            "times a connection was handed out",
            stats.allocations,
        );
        self.number(
            "jackpot_connect_failures_total",
            "counter",
            "connections that could not be made",
            stats.connect_failures,
        );
        self.number(
            "jackpot_refusals_total",
            "counter",
            "calls that found too many waiting already",
            stats.refusals,
        );
        let name = "jackpot_evictions_total";
        self.head(name, "counter", "connections that left the pool, by cause");
        for why in Eviction::all() {
            self.line(name, &format!(",cause=\"{why}\""), stats.evicted(why));
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, more_labels: &str, value: impl Display) {
        let pool = &self.pool;
        let _ = writeln!(self.text, "{name}{{{pool}{more_labels}}} {value}");
    }

    fn number(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    /// With one bound for each doubling from 0.1 ms to two minutes, of the five that are there.
    fn histogram(&mut self, name: &str, help: &str, times: &Histogram) {
        const BOUNDS: std::ops::Range<Duration> =
            Duration::from_micros(100)..Duration::from_secs(120);
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut buckets = times.buckets().step_by(5);
        for (bound, count) in buckets.by_ref().filter(|(bound, _)| BOUNDS.contains(bound)) {
            let bound = bound.as_secs_f64();
            self.line(&bucket, &format!(",le=\"{bound}\""), count);
        }
        self.line(&bucket, ",le=\"+Inf\"", times.count());
        self.line(&format!("{name}_sum"), "", times.sum().as_secs_f64());
        self.line(&format!("{name}_count"), "", times.count());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{TcpListener, TcpStream};

    use jackpot::Pool;
    use openmetrics_parser::{PrometheusType, PrometheusValue, prometheus::parse_prometheus};

    use super::*;

    const POOL: &str = r#"a "quoted\name""#;

    /// What a pool says that was used twice, the second caller having waited for the first.
    fn used() -> Stats {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let pool = Pool::builder(move || TcpStream::connect(address))
            .limit(1)
            .lease_events(true)
            .build()
            .unwrap();
        let first = pool.pull().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(pool.pull().unwrap()));
            while pool.stats().waiting == 0 {
                std::thread::yield_now();
            }
            drop(first);
        });
        pool.stats()
    }

    #[test]
    fn a_parser_finds_each_number_by_its_conventional_name() {
        let stats = used();
        let text = text(&stats, true, POOL);
        let families = parse_prometheus(&text).unwrap().families;
        let mut numbers = BTreeMap::new();
        for (name, family) in &families {
            assert!(!family.help.is_empty(), "{name} is not explained");
            assert!(
                matches!(
                    family.family_type,
                    PrometheusType::Counter | PrometheusType::Gauge | PrometheusType::Histogram
                ),
                "{name} is of no type"
            );
            for sample in family.iter_samples() {
                let labels = sample.get_labelset().unwrap();
                let pool = labels.get_label_value("db_client_connection_pool_name");
                assert_eq!(pool, Some(POOL), "{name}");
                let which = labels.get_label_value("db_client_connection_state");
                let key = name.clone() + &which.map_or(String::new(), |state| format!(" {state}"));
                let number = match &sample.value {
                    PrometheusValue::Gauge(number) => number.as_f64(),
                    PrometheusValue::Counter(counter) => counter.value.as_f64(),
                    PrometheusValue::Histogram(histogram) => {
                        let last = histogram.buckets.last().unwrap();
                        assert!(last.upper_bound.is_infinite(), "{name} has no end");
                        let count = histogram.count.unwrap();
                        assert_eq!(last.count.as_i64(), i64::try_from(count).ok(), "{name}");
                        assert!(histogram.sum.as_ref().unwrap().as_f64() > 0.0, "{name}");
                        last.count.as_f64()
                    }
                    other => panic!("{name} is {other:?}"),
                };
                numbers.insert(key, number);
            }
        }
        for (name, expected) in [
            ("db_client_connection_count idle", 1.0),
            ("db_client_connection_count used", 0.0),
            ("db_client_connection_max", 1.0),
            ("db_client_connection_pending_requests", 0.0),
            ("db_client_connection_timeouts_total", 0.0),
            ("db_client_connection_wait_time_seconds", 2.0),
            ("db_client_connection_create_time_seconds", 1.0),
            ("db_client_connection_use_time_seconds", 2.0),
            ("jackpot_outage", 1.0),
            ("jackpot_allocations_total", 2.0),
        ] {
            assert_eq!(numbers.get(name), Some(&expected), "{name} in {numbers:?}");
        }
    }
}
