//! Metrics of the process itself: build, start, memory, what is in force.
//!
//! Owns those few; every room registers its own. Labels are bounded: none here comes from a peer. Called by `run`.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// Registers them.
pub(crate) fn register(registry: &mut Registry, started_unix: i64) {
    registry.register(
        "strait_build",
        "What is running",
        Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_with_unit(
        "strait_process_start_time",
        "When this process started, Unix time",
        Unit::Seconds,
        ConstGauge::new(started_unix),
    );
    registry.register_collector(Box::new(Memory));
}

/// Resident memory, read when scraped.
#[derive(Debug)]
struct Memory;

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(bytes) = resident_bytes() else {
            return Ok(());
        };
        let gauge = ConstGauge::new(bytes);
        let encoder = encoder.encode_descriptor(
            "strait_process_resident_memory",
            "Resident memory of this process",
            Some(&Unit::Bytes),
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

/// Resident bytes of this process; `None` where the system has no /proc.
pub(crate) fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_describes_itself() {
        let mut registry = Registry::default();
        register(&mut registry, 17);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("strait_build_info{version="), "{text}");
        assert!(text.contains("strait_process_start_time_seconds 17"), "{text}");
        #[cfg(target_os = "linux")]
        assert!(text.contains("strait_process_resident_memory_bytes "), "{text}");
    }
}
