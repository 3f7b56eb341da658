//! The frames by which two sides compare what they have.

use super::{
    WantedBucket, limits,
    parse::{self, Result},
    proto,
};

pub fn parse_digests(m: proto::Digests) -> Result<Vec<u64>> {
    parse::count("digests", &m.digests, limits::MAX_BUCKETS)?;
    if m.digests.len().is_power_of_two() {
        Ok(m.digests)
    } else {
        Err(parse::invalid("digests", &format_args!("of {} buckets", m.digests.len())))
    }
}

pub fn want_message(wanted: &[WantedBucket]) -> proto::Want {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    proto::Want {
        buckets: wanted.iter().map(|w| number(w.index)).collect(),
        counts: wanted.iter().map(|w| number(w.held.len())).collect(),
        held: wanted.iter().flat_map(|w| &w.held).copied().collect(),
    }
}

pub fn parse_want(m: &proto::Want) -> Result<Vec<WantedBucket>> {
    parse::count("want.buckets", &m.buckets, limits::MAX_BUCKETS)?;
    parse::count("want.held", &m.held, limits::MAX_HELD)?;
    let uneven = || parse::invalid("want.counts", &format_args!("that do not add up"));
    if m.buckets.len() != m.counts.len() {
        return Err(uneven());
    }
    let mut rest = m.held.as_slice();
    let mut wanted = Vec::with_capacity(m.buckets.len());
    for (bucket, count) in m.buckets.iter().zip(&m.counts) {
        let index = *bucket as usize;
        if index >= limits::MAX_BUCKETS {
            return Err(parse::invalid("want.buckets", bucket));
        }
        let (held, others) = rest.split_at_checked(*count as usize).ok_or_else(uneven)?;
        wanted.push(WantedBucket { index, held: held.to_vec() });
        rest = others;
    }
    if rest.is_empty() { Ok(wanted) } else { Err(uneven()) }
}

pub fn parse_obsolete(m: proto::Obsolete) -> Result<Vec<u64>> {
    parse::count("obsolete", &m.held, limits::MAX_HELD)?;
    Ok(m.held)
}
