//! What Prometheus sees.

use std::fmt::Write as _;
use std::sync::Arc;

use objects::{Accounts, Objects};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use s3::{MemoryBudget, Observer, RequestSummary};
use volume::{DiskStats, MemberState, VolumeStats};

use crate::access_log::AccessLog;
use crate::redundancy::seconds_to_safety;
use crate::tls::Tls;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    /// The HTTP status, or `none` if the client left before there was one.
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// Upper bounds of latency buckets, in seconds.
const LATENCY_BOUNDS: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 4.0,
    16.0,
];

/// Counts requests; renders everything.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Family<OperationLabels, Histogram>,
    first_byte: Family<OperationLabels, Histogram>,
    aborted: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    access_log: Option<AccessLog>,
}

impl Metrics {
    /// Registers everything. `budgets` are shown by their names.
    pub(crate) fn new(
        objects: Objects,
        accounts: Accounts,
        budgets: Vec<MemoryBudget>,
        access_log: Option<AccessLog>,
        tls: Option<Arc<Tls>>,
    ) -> Arc<Metrics> {
        let latency = || Histogram::new(LATENCY_BOUNDS);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("cullet"),
            requests: Family::default(),
            duration: Family::new_with_constructor(latency),
            first_byte: Family::new_with_constructor(latency),
            aborted: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            access_log: access_log.clone(),
        };
        metrics.register();
        metrics
            .registry
            .register_collector(Box::new(StorageCollector { objects }));
        metrics
            .registry
            .register_collector(Box::new(AccountsCollector { accounts }));
        metrics
            .registry
            .register_collector(Box::new(BudgetCollector {
                budgets,
                access_log,
            }));
        if let Some(tls) = tls {
            let collector = Box::new(CertificateCollector { tls });
            metrics.registry.register_collector(collector);
        }
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests by operation and status",
            self.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's last byte",
            self.duration.clone(),
        );
        registry.register(
            "request_first_byte_seconds",
            "Time from a request's head to its answer's head",
            self.first_byte.clone(),
        );
        registry.register(
            "requests_aborted",
            "Requests whose answer broke off: the client left, or the body is damaged",
            self.aborted.clone(),
        );
        registry.register(
            "received_bytes",
            "Bytes of requests' bodies",
            self.bytes_in.clone(),
        );
        registry.register(
            "sent_bytes",
            "Bytes of answers' bodies",
            self.bytes_out.clone(),
        );
    }

    /// The page in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let mut page = String::new();
        if let Err(error) = encode(&mut page, &self.registry) {
            let _ = write!(page, "# the metrics could not be rendered: {error}");
        }
        page
    }
}

impl Observer for Metrics {
    fn finished(&self, request: &RequestSummary<'_>) {
        let operation = request.operation;
        let status = request
            .status
            .map_or("none".to_owned(), |s| s.as_str().to_owned());
        self.requests
            .get_or_create(&RequestLabels { operation, status })
            .inc();
        let labels = OperationLabels { operation };
        self.duration
            .get_or_create(&labels)
            .observe(request.duration.as_secs_f64());
        if let Some(first_byte) = request.first_byte {
            self.first_byte
                .get_or_create(&labels)
                .observe(first_byte.as_secs_f64());
        }
        if !request.complete {
            self.aborted.inc();
        }
        self.bytes_in.inc_by(request.bytes_in);
        self.bytes_out.inc_by(request.bytes_out);
        if let Some(log) = &self.access_log {
            log.log(request);
        }
    }
}

/// Writes one value without labels of its own.
fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// How long the certificate in use is good for.
struct CertificateCollector {
    tls: Arc<Tls>,
}

impl std::fmt::Debug for CertificateCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateCollector")
            .finish_non_exhaustive()
    }
}

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(expires) = self.tls.expires() else {
            return Ok(());
        };
        let help = "When the certificate in use expires, in seconds since 1970";
        put(
            &mut encoder,
            "tls_certificate_expiry_timestamp_seconds",
            help,
            &ConstGauge::new(expires),
        )
    }
}

/// What the disks and the objects say of themselves.
struct StorageCollector {
    objects: Objects,
}

impl std::fmt::Debug for StorageCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageCollector").finish_non_exhaustive()
    }
}

impl Collector for StorageCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.objects.stats();
        let encoder = &mut encoder;
        put(
            encoder,
            "open_writers",
            "Bodies being written",
            &gauge(stats.open_writers),
        )?;
        let help = "Replaced or deleted bodies whose space is not given back yet";
        put(
            encoder,
            "pending_deletes",
            help,
            &gauge(stats.pending_deletes),
        )?;
        let help = "Bodies of earlier runs that had no record and were deleted";
        put(
            encoder,
            "swept_blobs",
            help,
            &ConstCounter::new(stats.swept_blobs),
        )?;
        let help = "Bytes on their way to the disks";
        put(
            encoder,
            "in_flight_bytes",
            help,
            &gauge(stats.volume.in_flight_bytes),
        )?;
        let help = "Disks that belong to the set, here or not";
        put(
            encoder,
            "set_disks",
            help,
            &gauge(stats.volume.members as u64),
        )?;
        let help = "1 if too many disks are missing for writes";
        let refuses = u64::from(stats.volume.refusal.is_some());
        put(encoder, "set_refuses_writes", help, &gauge(refuses))?;
        if stats.volume.members > 1 {
            encode_redundancy(encoder, &stats.volume)?;
        }
        encode_disks(encoder, &stats.volume.disks)
    }
}

/// What the last walk over all stripes counted.
fn encode_redundancy(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &VolumeStats,
) -> Result<(), std::fmt::Error> {
    let ledger = &stats.ledger;
    let help = "Stripes by how many of their shards are missing; too_many: they cannot be read";
    let kind = gauge(0).metric_type();
    let mut descriptor = encoder.encode_descriptor("stripes", help, None, kind)?;
    let counted = ledger.stripes.iter().enumerate();
    let counted = counted.map(|(missing, stripes)| (missing.to_string(), *stripes));
    for (missing, stripes) in counted.chain([("too_many".to_owned(), ledger.lost)]) {
        let labels = [("missing", missing)];
        gauge(stripes).encode(descriptor.encode_family(&labels)?)?;
    }
    let help = "Bytes of shards that are missing";
    put(encoder, "owing_bytes", help, &gauge(ledger.bytes_owing))?;
    let help = "Seconds until everything has all of its shards; -1: nobody can tell, or a disk is missing for it";
    let seconds = seconds_to_safety(stats).map_or(-1.0, f64::ceil);
    put(
        encoder,
        "time_to_safety_seconds",
        help,
        &ConstGauge::new(seconds),
    )?;
    let help = "1 if all stripes were looked at since anything changed";
    let settled = u64::from(ledger.is_settled);
    put(encoder, "redundancy_settled", help, &gauge(settled))?;
    let help = "Shards that were rebuilt since the start";
    put(
        encoder,
        "healed_shards",
        help,
        &ConstCounter::new(stats.shards_healed),
    )?;
    let help = "Shards that were brought to another disk since the start";
    let moved = ConstCounter::new(stats.shards_moved);
    put(encoder, "moved_shards", help, &moved)?;
    let help = "Reads for which other disks were asked, because one took too long";
    let hedged = ConstCounter::new(stats.reads_hedged);
    put(encoder, "hedged_reads", help, &hedged)?;
    let help = "Entries of metadata that were copied to another disk since the start";
    let copied = ConstCounter::new(stats.metadata_copied);
    put(encoder, "copied_metadata_entries", help, &copied)
}

/// A figure of each disk: its name, what it says, and where it stands.
type DiskFigure = (&'static str, &'static str, fn(&DiskStats) -> u64);

const DISK_GAUGES: &[DiskFigure] = &[
    (
        "disk_failed",
        "1 if the disk takes no more writes",
        |disk| u64::from(disk.failure.is_some()),
    ),
    ("disk_live", "1 if the disk takes part in the set", |disk| {
        u64::from(disk.state == MemberState::Live)
    }),
    ("disk_capacity_bytes", "Bytes of the disk", |disk| {
        disk.space.capacity
    }),
    ("disk_live_bytes", "Bytes in use", |disk| disk.space.live),
    (
        "disk_dead_bytes",
        "Bytes that reclamation can free",
        |disk| disk.space.dead,
    ),
    ("disk_free_bytes", "Bytes in free extents", |disk| {
        disk.space.free
    }),
    (
        "disk_reserve_bytes",
        "Free bytes kept for deletes",
        |disk| disk.space.reserve,
    ),
    (
        "disk_draining",
        "1 if what the disk has goes to the others",
        |disk| u64::from(disk.is_draining),
    ),
    (
        "disk_slow",
        "1 if the disk takes far longer than the others, which are asked instead",
        |disk| u64::from(disk.is_slow),
    ),
    (
        "disk_scrub_extents_done",
        "Extents that this pass of the scrub has read",
        |disk| disk.scrub.extent.into(),
    ),
    ("disk_scrub_extents", "Extents that a pass reads", |disk| {
        disk.scrub.extents.into()
    }),
    (
        "disk_scrub_end_timestamp_seconds",
        "When the last pass of the scrub ended, since 1970; 0: none did",
        |disk| disk.scrub.ended_ms / 1_000,
    ),
    (
        "disk_scrub_damage",
        "Damage that the last pass of the scrub that ended found, and this one",
        |disk| disk.scrub.damage_last + disk.scrub.damage,
    ),
    (
        "engine_memtable_bytes",
        "Index entries not written out yet",
        |disk| disk.stats.memtable_bytes,
    ),
    ("engine_cache_bytes", "Block cache of the index", |disk| {
        disk.stats.cache_bytes
    }),
    (
        "engine_queue_bytes",
        "Bytes waiting to be committed",
        |disk| disk.stats.queue_bytes,
    ),
    (
        "engine_waiting_bytes",
        "Bytes waiting for room in the commit queue",
        |disk| disk.stats.waiting_bytes,
    ),
    ("engine_tables", "Tables of the index", |disk| {
        disk.stats.tables
    }),
    ("engine_snapshots", "Views that pin space", |disk| {
        disk.stats.snapshots
    }),
    (
        "engine_flush_us_max",
        "Longest flush in microseconds",
        |disk| disk.stats.flush_us_max,
    ),
];

const DISK_COUNTERS: &[DiskFigure] = &[
    ("engine_flushes", "Group commits, one flush each", |disk| {
        disk.stats.groups
    }),
    ("engine_frames", "Frames appended", |disk| disk.stats.frames),
    ("engine_appended_bytes", "Bytes appended", |disk| {
        disk.stats.bytes_appended
    }),
    ("engine_flush_us", "Microseconds spent in flushes", |disk| {
        disk.stats.flush_us_total
    }),
    ("engine_checkpoints", "Checkpoints", |disk| {
        disk.stats.checkpoints
    }),
    ("engine_compactions", "Compactions", |disk| {
        disk.stats.compactions
    }),
    ("engine_extents_reclaimed", "Extents reclaimed", |disk| {
        disk.stats.extents_reclaimed
    }),
    (
        "engine_evacuated_bytes",
        "Bytes moved by reclamation",
        |disk| disk.stats.bytes_evacuated,
    ),
    (
        "engine_scrubbed_bytes",
        "Bytes read and verified by the scrub",
        |disk| disk.stats.scrubbed_bytes,
    ),
    (
        "engine_corruptions",
        "Damage that reclamation and scrub found",
        |disk| disk.stats.corruptions,
    ),
];

/// Each figure once, with a line for each disk.
fn encode_disks(
    encoder: &mut DescriptorEncoder<'_>,
    disks: &[DiskStats],
) -> Result<(), std::fmt::Error> {
    for (name, help, value) in DISK_GAUGES {
        encode_figure(encoder, (name, help), disks, |disk| gauge(value(disk)))?;
    }
    for (name, help, value) in DISK_COUNTERS {
        let counter = |disk: &DiskStats| ConstCounter::new(value(disk));
        encode_figure(encoder, (name, help), disks, counter)?;
    }
    Ok(())
}

fn encode_figure<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    disks: &[DiskStats],
    metric: impl Fn(&DiskStats) -> M,
) -> Result<(), std::fmt::Error> {
    let Some(first) = disks.first() else {
        return Ok(());
    };
    let kind = metric(first).metric_type();
    let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
    for disk in disks {
        let labels = [("disk", disk.slot.to_string()), ("path", disk.name.clone())];
        metric(disk).encode(descriptor.encode_family(&labels)?)?;
    }
    Ok(())
}

/// How many accounts and access keys there are.
struct AccountsCollector {
    accounts: Accounts,
}

impl std::fmt::Debug for AccountsCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountsCollector").finish_non_exhaustive()
    }
}

impl Collector for AccountsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.accounts.stats();
        for (name, help, value) in [
            (
                "accounts",
                "Accounts, the root account included",
                stats.accounts,
            ),
            (
                "access_keys",
                "Access keys, the root key not included",
                stats.keys,
            ),
            (
                "access_keys_unreadable",
                "Access keys whose secret is sealed with another master key",
                stats.unreadable_keys,
            ),
        ] {
            put(&mut encoder, name, help, &gauge(value))?;
        }
        Ok(())
    }
}

/// Memory, and who waits for it.
#[derive(Debug)]
struct BudgetCollector {
    budgets: Vec<MemoryBudget>,
    access_log: Option<AccessLog>,
}

impl Collector for BudgetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Value = fn(&MemoryBudget) -> u64;
        let gauges: [(&str, &str, Value); 3] = [
            (
                "memory_budget_bytes",
                "Memory that may be reserved",
                MemoryBudget::total_bytes,
            ),
            (
                "memory_used_bytes",
                "Memory that is reserved",
                MemoryBudget::used_bytes,
            ),
            ("memory_waiting", "Requests that wait for memory", |b| {
                b.waiting() as u64
            }),
        ];
        for (name, help, value) in gauges {
            // Described once, or parsers refuse the page.
            let mut descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for budget in &self.budgets {
                let metric = gauge(value(budget));
                metric.encode(descriptor.encode_family(&[("for", budget.name())])?)?;
            }
        }
        let help = "Requests refused for want of memory";
        let mut descriptor =
            encoder.encode_descriptor("memory_refused", help, None, MetricType::Counter)?;
        for budget in &self.budgets {
            let metric = ConstCounter::new(budget.refused());
            metric.encode(descriptor.encode_family(&[("for", budget.name())])?)?;
        }
        if let Some(log) = &self.access_log {
            let help = "Lines that the access log's writer was too slow for";
            put(
                &mut encoder,
                "access_log_dropped",
                help,
                &ConstCounter::new(log.dropped()),
            )?;
        }
        Ok(())
    }
}
