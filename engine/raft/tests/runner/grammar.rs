//! The runner's own tests: what it refuses, and what it says then.

use libtest_mimic::{Failed, Trial};

/// Scripts that must fail, and what must be said about them.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "an_unknown_word_is_an_error",
        "add-nodes 3\nelect 1\n",
        "x.txt:2: expected a word of this language, found `elect`",
    ),
    (
        "a_script_that_asserts_nothing_is_an_error",
        "add-nodes 3\ncampaign 1\n",
        "the script asserts nothing",
    ),
    (
        "an_empty_script_is_an_error",
        "# nothing\n",
        "the script asserts nothing",
    ),
    (
        "a_case_that_asserts_nothing_is_an_error",
        "add-nodes 1\n\ncase a\ncampaign 1\n\ncase b\nraft-state\n----\nall: term=0\n",
        "case a asserts nothing",
    ),
    (
        "an_assertion_that_may_be_skipped_does_not_count",
        "add-nodes 1\nstop-anywhere\nraft-state\n----\nall: term=0\n\nend\n",
        "the script asserts nothing",
    ),
    (
        "an_observer_without_an_expectation_is_an_error",
        "add-nodes 1\nraft-state\n\ndisk\n----\n1: term=0\n",
        "x.txt:2: expected `----`",
    ),
    (
        "an_empty_expectation_is_an_error",
        "add-nodes 1\nraft-state\n----\n\n",
        "x.txt:3: expected what is to be seen",
    ),
    (
        "an_expectation_of_nothing_is_an_error",
        "add-nodes 1\nraft-state\n----\n1:\n",
        "x.txt:4: expected what holds of 1, found nothing",
    ),
    (
        "an_expectation_without_a_word_is_an_error",
        "add-nodes 1\n\n----\n1: term=0\n",
        "x.txt:3: expected a word before `----`",
    ),
    (
        "an_unknown_fact_is_an_error",
        "add-nodes 1\nraft-state\n----\n1: !leading\n",
        "found `leading`",
    ),
    (
        "an_unknown_value_is_an_error",
        "add-nodes 1\nraft-state\n----\n1: terms=0\n",
        "found `terms`",
    ),
    (
        "an_unknown_option_is_an_error",
        "add-nodes 1 prevote=on\nraft-state\n----\n1: term=0\n",
        "x.txt:1: expected `add-nodes COUNT [OPTION=VALUE ...]`, found `prevote=`",
    ),
    (
        "a_block_without_an_end_is_an_error",
        "add-nodes 1\nrepeat 3\ncampaign 1\n",
        "x.txt:2: expected an `end` of this repeat",
    ),
    (
        "an_expectation_that_fails_shows_both",
        "add-nodes 3\ncampaign 1\nstabilize\n\nraft-state 2,3\n----\n2: follower term=1\n3: follower term=2\n",
        "x.txt:8: seed 1\nexpected: 3: follower term=2\n   found: 3: follower term=1",
    ),
    (
        "a_refusal_that_nobody_expects_fails",
        "add-nodes 3\npropose 2 x\n\nraft-state\n----\nall: follower\n",
        "x.txt:2: seed 1\nexpected: ok\n   found: refused not-leader lead=none",
    ),
    (
        "a_node_that_is_not_there_fails",
        "add-nodes 3\ncampaign 4\n\nraft-state\n----\nall: follower\n",
        "x.txt:2: seed 1\nthere is no node 4",
    ),
    (
        "a_message_that_nobody_expects_fails",
        "add-nodes 2\ncampaign 1\nprocess-ready 1\n\nmessages\n----\nnone\n",
        "found: 1->2 request-vote",
    ),
    (
        "a_message_that_is_missing_fails",
        "add-nodes 2\nmessages\n----\n1->2 append\n",
        "x.txt:4: seed 1\nexpected: 1->2 append\n   found: none",
    ),
    (
        "a_log_is_compared_whole",
        "add-nodes 2 log=(1,2)\nraft-log\n----\nall: 1/1\n",
        "found: 1: 1/1 2/2",
    ),
    (
        "one_bad_order_of_many_is_found_and_told",
        "add-nodes 3\ncampaign 1,2\nevery-order\nprocess-ready 1\nprocess-ready 2\nend\n\nmessages *->3\n----\n1->3 request-vote\n2->3 request-vote\n",
        "x.txt:10: choices [1, 0], seed 1",
    ),
    (
        "a_broken_invariant_fails_at_its_line",
        "add-nodes 3 log=(1)\nadd-nodes 1 voters=(1..4) log=(1,1) commit=2\n\nraft-state\n----\nall: follower\n",
        "x.txt:4: seed 1\nS7",
    ),
];

/// Scripts that must pass.
const ACCEPTED: &[(&str, &str)] = &[
    (
        "a_start_that_is_refused_can_be_expected",
        "add-nodes 1 election-ticks=1\n----\nrefused heartbeat-too-slow\n",
    ),
    (
        "every_order_and_every_stop_are_run",
        "add-nodes 3\nevery-order\ncampaign 1\ncampaign 2\nend\nstop-anywhere\nprocess-ready 1\nprocess-ready 2\nend\nraft-state 1,2\n----\nall: candidate term=1\n",
    ),
    (
        "comments_may_stand_anywhere",
        "# one\nadd-nodes 1 # two\nraft-state\n----\n# three\n1: follower # four\n",
    ),
    (
        "a_comparison_holds",
        "add-nodes 1 log=(1,2x3)\nraft-state\n----\n1: last=2/4 last>2/3 last<=3/1 term>1 term!=3 !leader\n",
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let refused = REFUSED.iter().map(|&(name, script, said)| {
        Trial::test(name, move || match super::run("x.txt", script) {
            Ok(()) => Err(Failed::from("it passed")),
            Err(error) if error.contains(said) => Ok(()),
            Err(error) => Err(Failed::from(format!("it says:\n{error}\nand not:\n{said}"))),
        })
    });
    let accepted = ACCEPTED.iter().map(|&(name, script)| {
        Trial::test(name, move || {
            super::run("x.txt", script).map_err(Failed::from)
        })
    });
    refused.chain(accepted).collect()
}
