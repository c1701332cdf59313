//! How nodes begin, and what can be set while they run.

use super::token::{Args, Parsed, ids, number, on_off, terms};
use crate::harness::{Options, TICK};
use pontoon_types::{ConfChange, ConfState, MemberChange, ReplicaId, Transition};

/// The options of `add-nodes`.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    options: Options,
    conf: Option<ConfState>,
    pub(crate) settings: Settings,
}

/// What can also be changed later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) appends_held: Option<bool>,
    pub(crate) applies_held: Option<bool>,
    pub(crate) snapshots_held: Option<bool>,
    pub(crate) clock_percent: Option<u64>,
}

impl Settings {
    pub(crate) fn parse(args: &mut Args) -> Parsed<Self> {
        let held = |args: &mut Args, key: &str| match args.option(key).as_deref() {
            None => Ok(None),
            Some("held") => Ok(Some(true)),
            Some("prompt") => Ok(Some(false)),
            Some(other) => Err(format!(
                "expected {key}=held or {key}=prompt, found `{other}`"
            )),
        };
        let what = "a speed such as clock=90%";
        let clock_percent = percent_option(args, "clock", what)?;
        if clock_percent == Some(0) {
            return Err(format!("expected {what}, found a clock that stands"));
        }
        Ok(Self {
            appends_held: held(args, "appends")?,
            applies_held: held(args, "applies")?,
            snapshots_held: held(args, "snapshots")?,
            clock_percent,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.appends_held.is_none()
            && self.applies_held.is_none()
            && self.snapshots_held.is_none()
            && self.clock_percent.is_none()
    }
}

/// `v4 l5 r1` (a voter, a learner, nobody), or `leave` for the end of a joint configuration.
pub(crate) fn conf_change(args: &mut Args) -> Parsed<ConfChange> {
    let transition = match args.option("transition").as_deref() {
        None => Transition::Auto,
        Some("joint") => Transition::JointAutoLeave,
        Some("explicit") => Transition::JointExplicit,
        Some(other) => {
            return Err(format!(
                "expected transition=joint or transition=explicit, found `{other}`"
            ));
        }
    };
    if args.flag("leave") {
        return Ok(ConfChange::leave());
    }
    let mut changes = Vec::new();
    while let Some(text) = args.maybe_plain() {
        let id = text.get(1..).and_then(|id| id.parse().ok()).map(ReplicaId);
        changes.push(match (text.chars().next(), id) {
            (Some('v'), Some(id)) => MemberChange::AddVoter(id),
            (Some('l'), Some(id)) => MemberChange::AddLearner(id),
            (Some('r'), Some(id)) => MemberChange::Remove(id),
            _ => {
                return Err(format!(
                    "expected a change such as v4, l4 or r4, found `{text}`"
                ));
            }
        });
    }
    match changes.is_empty() {
        true => Err("expected changes such as v4 r1, or leave, found nothing".to_owned()),
        false => Ok(ConfChange::of(changes, transition)),
    }
}

fn members(args: &mut Args, key: &str) -> Parsed<Option<Vec<ReplicaId>>> {
    let value = args.option(key);
    let list = value.map(|value| ids(&value)).transpose()?;
    Ok(list.map(|mut list| {
        list.sort_unstable();
        list.dedup();
        list.into_iter().map(ReplicaId).collect()
    }))
}

fn percent_option(args: &mut Args, key: &str, what: &str) -> Parsed<Option<u64>> {
    let value = args.option(key);
    let percent = |value: String| number(value.strip_suffix('%').unwrap_or("?"), what);
    value.map(percent).transpose()
}

impl Setup {
    pub(crate) fn parse(args: &mut Args) -> Parsed<Self> {
        let voters = members(args, "voters")?;
        let conf = match voters {
            Some(voters) => Some(ConfState {
                voters,
                outgoing: members(args, "outgoing")?.unwrap_or_default(),
                learners: members(args, "learners")?.unwrap_or_default(),
                ..ConfState::default()
            }),
            None => None,
        };
        let mut options = Options::voters([]);
        let config = &mut options.config;
        for (key, to) in [
            ("election-ticks", &mut config.election_timeout),
            ("heartbeat-ticks", &mut config.heartbeat_interval),
        ] {
            if let Some(ticks) = args.number_option(key)? {
                *to = TICK * u32::try_from(ticks.min(100_000)).unwrap();
            }
        }
        for (key, to) in [
            ("pre-vote", &mut config.pre_vote),
            ("check-quorum", &mut config.check_quorum),
            ("lease", &mut config.lease),
        ] {
            if let Some(value) = args.option(key) {
                *to = on_off(&value)?;
            }
        }
        for (key, to) in [
            ("inflight", &mut config.max_inflight_appends),
            ("inflight-bytes", &mut config.max_inflight_bytes),
            ("max-append-bytes", &mut config.max_append_bytes),
            ("max-uncommitted-bytes", &mut config.max_uncommitted_bytes),
            ("max-apply-bytes", &mut config.max_apply_bytes),
            ("max-cached-bytes", &mut config.max_cached_bytes),
        ] {
            if let Some(value) = args.number_option(key)? {
                *to = value as usize;
            }
        }
        if let Some(seed) = args.number_option("seed")? {
            config.seed = seed;
        }
        if let Some(rank) = args.number_option("election-rank")? {
            config.election_rank = u32::try_from(rank.min(100)).unwrap();
        }
        if let Some(drift) = percent_option(args, "clock-drift", "a drift such as clock-drift=10%")?
        {
            config.max_clock_drift_percent = u8::try_from(drift).unwrap_or(u8::MAX);
        }
        if let Some(log) = args.option("log") {
            options = options.log(&terms(&log)?);
        }
        for (key, to) in [
            ("term", &mut options.term),
            ("vote", &mut options.vote),
            ("commit", &mut options.commit),
            ("applied", &mut options.applied),
        ] {
            if let Some(value) = args.number_option(key)? {
                *to = value;
            }
        }
        let settings = Settings::parse(args)?;
        Ok(Self {
            options,
            conf,
            settings,
        })
    }

    /// The options of a node that is added together with `ids`, whose seed is mixed with `seed`.
    pub(crate) fn options(&self, ids: &[u64], seed: u64) -> Options {
        let mut options = self.options.clone();
        let together = || ConfState::of_voters(ids.iter().copied().map(ReplicaId));
        options.conf_state = self.conf.clone().unwrap_or_else(together);
        options.config.seed = options.config.seed.wrapping_add(seed);
        options
    }
}
