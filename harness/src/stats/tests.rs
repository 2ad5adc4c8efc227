use super::*;

fn close(found: Option<f64>, expect: Option<f64>, what: &str) {
    match (found, expect) {
        (None, None) => {}
        (Some(f), Some(e)) if (f - e).abs() <= 1e-9 * e.abs().max(1.0) => {}
        _ => panic!("{what}: found {found:?}, expected {expect:?}"),
    }
}

/// Seeded values with ties and signs, for comparison with brute force.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut random = SplitMix64(seed);
    (0..n).map(|_| random.below(41) as f64 - 17.0).collect()
}

#[test]
fn quantiles_by_hand() {
    let table: &[(&[f64], f64, Option<f64>)] = &[
        (&[], 0.5, None),
        (&[3.0], 0.5, Some(3.0)),
        (&[3.0], 0.99, Some(3.0)),
        (&[4.0, 1.0, 3.0, 2.0], 0.0, Some(1.0)),
        (&[4.0, 1.0, 3.0, 2.0], 1.0, Some(4.0)),
        (&[4.0, 1.0, 3.0, 2.0], 0.5, Some(2.5)),
        (&[4.0, 1.0, 3.0, 2.0], 0.25, Some(1.75)),
        (&[4.0, 1.0, 3.0, 2.0], 0.9, Some(3.7)),
        (&[10.0, 20.0, 40.0], 0.75, Some(30.0)),
        (&[-5.0, 5.0], 2.0, Some(5.0)),
    ];
    for (list, p, expect) in table {
        close(quantile(list, *p), *expect, &format!("{list:?} {p}"));
    }
}

#[test]
fn median_and_mad_by_hand() {
    let table: &[(&[f64], Option<f64>, Option<f64>)] = &[
        (&[], None, None),
        (&[7.0], Some(7.0), Some(0.0)),
        (&[1.0, 2.0, 100.0], Some(2.0), Some(1.0)),
        (&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0], Some(2.0), Some(1.0)),
        (&[150.0, 160.0, 140.0, 155.0], Some(152.5), Some(5.0)),
    ];
    for (list, middle, deviation) in table {
        close(median(list), *middle, &format!("median {list:?}"));
        close(mad(list), *deviation, &format!("mad {list:?}"));
    }
}

#[test]
fn p99_needs_its_samples() {
    let list: Vec<f64> = (0..299).map(f64::from).collect();
    assert_eq!(p99(&list[..298]), None);
    close(p99(&list), Some(295.02), "0.99 * 298");
    let reached = |n: i32| 1.0 - 0.99f64.powi(n) >= 0.95;
    assert!(reached(P99_SAMPLES_MIN as i32) && !reached(P99_SAMPLES_MIN as i32 - 1));
}

#[test]
fn median_intervals_have_the_confidence_they_state() {
    // (n, wanted, index of the lower order statistic, confidence): standard tables.
    let table: &[(usize, f64, usize, f64)] = &[
        (2, 0.95, 0, 0.5),
        (5, 0.95, 0, 0.9375),
        (6, 0.95, 0, 0.96875),
        (9, 0.95, 1, 0.9609375),
        (10, 0.95, 1, 0.978515625),
        (12, 0.95, 2, 0.961425781),
        (20, 0.95, 5, 0.958610535),
    ];
    for &(n, wanted, index, confidence) in table {
        let list: Vec<f64> = (0..n).rev().map(|i| i as f64).collect();
        let interval = median_interval(&list, wanted).expect("two values or more");
        assert_eq!(
            (interval.low, interval.high),
            (index as f64, (n - 1 - index) as f64),
            "{n}"
        );
        close(
            Some(interval.confidence),
            Some((confidence * 1e9).round() / 1e9),
            &format!("{n}"),
        );
    }
    assert_eq!(median_interval(&[1.0], 0.95), None);
}

#[test]
fn median_interval_covers_as_often_as_it_says() {
    // Brute force over all ways in which 7 values can fall on either side of the median.
    let n = 7;
    let list: Vec<f64> = (0..n).map(f64::from).collect();
    let interval = median_interval(&list, 0.8).expect("seven values");
    let covered = (0..1u32 << n).filter(|sides| {
        let below = f64::from(sides.count_ones());
        interval.low < below && below <= interval.high
    });
    close(
        Some(interval.confidence),
        Some(covered.count() as f64 / 128.0),
        "coverage",
    );
}

#[test]
fn sign_test_against_brute_force() {
    for n in 0..12usize {
        for above in 0..=n {
            let list: Vec<f64> = (0..n).map(|i| if i < above { 1.5 } else { -0.5 }).collect();
            let extreme = above.min(n - above) as u32;
            let tail = (0..1u32 << n).filter(|s| s.count_ones() <= extreme).count();
            let expect = (2.0 * tail as f64 / f64::from(1u32 << n)).min(1.0);
            close(
                Some(sign_test_p(&list)),
                Some(expect),
                &format!("{above} of {n}"),
            );
        }
    }
    close(
        Some(sign_test_p(&[0.0, 0.0, 1.0, 2.0])),
        Some(0.5),
        "zeros are left out",
    );
    close(
        Some(sign_test_p(&[1.0; 6])),
        Some(0.03125),
        "the first below 0.05",
    );
    assert!(sign_test_p(&[1.0; 5]) > 0.05);
}

#[test]
fn wilcoxon_against_brute_force() {
    for n in 1..11usize {
        // Distinct magnitudes 1..n, so that ranks are the magnitudes.
        for pattern in 0..1u32 << n {
            let sign = |bits: u32, i: usize| if bits >> i & 1 == 1 { 1.0 } else { -1.0 };
            let list: Vec<f64> = (0..n).map(|i| sign(pattern, i) * (i + 1) as f64).collect();
            let positive = |bits: u32| {
                (0..n)
                    .map(|i| if bits >> i & 1 == 1 { i + 1 } else { 0 })
                    .sum::<usize>()
            };
            let total = n * (n + 1) / 2;
            let smaller = positive(pattern).min(total - positive(pattern));
            if n > 6 && pattern % 37 != 0 {
                continue;
            }
            let tail = (0..1u32 << n)
                .filter(|bits| positive(*bits) <= smaller)
                .count();
            let expect = (2.0 * tail as f64 / f64::from(1u32 << n)).min(1.0);
            close(Some(wilcoxon_p(&list)), Some(expect), &format!("{list:?}"));
        }
    }
    assert_eq!(wilcoxon_p(&[0.0, 0.0]), 1.0);
}

#[test]
fn hodges_lehmann_by_hand_and_against_brute_force() {
    close(hodges_lehmann(&[]), None, "empty");
    close(hodges_lehmann(&[5.0]), Some(5.0), "one");
    // Walsh averages of 1, 2, 9: 1, 1.5, 5, 2, 5.5, 9 -> (2 + 5) / 2.
    close(hodges_lehmann(&[1.0, 2.0, 9.0]), Some(3.5), "three");
    for seed in 0..20 {
        let list = values(3 + seed as usize % 9, seed);
        let centre = hodges_lehmann(&list).expect("values");
        // The estimate balances the signed-rank statistic of the shifted values.
        let pairs = |above: bool| {
            let averages = walsh_averages(&list);
            averages
                .iter()
                .filter(|a| if above { **a > centre } else { **a < centre })
                .count()
        };
        let half = list.len() * (list.len() + 1) / 4;
        assert!(
            pairs(true) <= half + 1 && pairs(false) <= half + 1,
            "{list:?} {centre}"
        );
    }
}

#[test]
fn wilcoxon_intervals_invert_the_test() {
    // (n, lower Walsh average from 1, confidence) at 95 %: one above the published critical values 3 (n = 8),
    // 8 (n = 10) and 13 (n = 12); for n = 5 no value reaches 95 %.
    let table: &[(usize, usize, f64)] = &[
        (5, 1, 0.9375),
        (6, 1, 0.96875),
        (8, 4, 0.9609375),
        (10, 9, 0.951171875),
        (12, 14, 0.95751953125),
    ];
    for &(n, index, confidence) in table {
        let list: Vec<f64> = (0..n).map(|i| (i * i) as f64 + 0.1 * i as f64).collect();
        let averages = sorted(&walsh_averages(&list));
        let interval = wilcoxon_interval(&list, 0.95).expect("values");
        assert_eq!(interval.low, averages[index - 1], "{n}");
        assert_eq!(interval.high, averages[averages.len() - index], "{n}");
        close(Some(interval.confidence), Some(confidence), &format!("{n}"));
        // A shift just inside is not rejected, one just outside is.
        if interval.confidence >= 0.95 {
            let p = |shift: f64| wilcoxon_p(&list.iter().map(|v| v - shift).collect::<Vec<_>>());
            assert!(
                p(interval.low + 1e-6) > 0.05,
                "{n}: {}",
                p(interval.low + 1e-6)
            );
            assert!(
                p(interval.low - 1e-6) <= 0.05,
                "{n}: {}",
                p(interval.low - 1e-6)
            );
        }
    }
    assert_eq!(wilcoxon_interval(&[1.0], 0.95), None);
}

#[test]
fn large_samples_meet_the_exact_distribution() {
    let exact = signed_rank_cdf(WILCOXON_EXACT_MAX);
    let max = exact.len() - 1;
    let (mean, n) = (max as f64 / 2.0, WILCOXON_EXACT_MAX as f64);
    let deviation = (mean * (2.0 * n + 1.0) / 6.0).sqrt();
    for t in (0..=max).step_by(50) {
        let normal = normal_cdf((t as f64 + 0.5 - mean) / deviation);
        assert!(
            (exact[t] - normal).abs() < 1e-3,
            "{t}: {} {normal}",
            exact[t]
        );
    }
    for (z, expect) in [
        (0.0, 0.5),
        (1.959_963_985, 0.975),
        (-1.644_853_627, 0.05),
        (9.0, 1.0),
    ] {
        assert!((normal_cdf(z) - expect).abs() < 1e-7, "{z}");
    }
    assert_eq!(
        wilcoxon_interval(&values(300, 1), 0.95).map(|i| i.low <= i.high),
        Some(true)
    );
}

#[test]
fn bootstrap_draws_whole_repetitions() {
    let repetitions = [vec![1.0; 50], vec![2.0; 50], vec![3.0; 50]];
    let run =
        |seed| bootstrap_interval(&repetitions, median, 0.95, 500, seed).expect("repetitions");
    assert_eq!(run(1), run(1), "seeded");
    assert_eq!(
        (run(1).low, run(1).high),
        (1.0, 3.0),
        "the spread between repetitions is kept"
    );
    let pooled: Vec<Vec<f64>> = repetitions.concat().into_iter().map(|v| vec![v]).collect();
    let naive = bootstrap_interval(&pooled, median, 0.95, 500, 1).expect("values");
    assert_eq!(
        (naive.low, naive.high),
        (2.0, 2.0),
        "drawing single values would hide it"
    );
    assert_eq!(
        bootstrap_interval(&repetitions[..1], median, 0.95, 10, 1),
        None
    );
    assert_eq!(
        bootstrap_interval(&repetitions, |_| None, 0.95, 10, 1),
        None
    );
}

#[test]
fn bootstrap_of_two_repetitions_against_brute_force() {
    // Draws of {a, b}: aa, ab, ba, bb; the mean is 0, 1, 1 or 2 with probability 1/4, 1/2, 1/4.
    let repetitions = [vec![0.0], vec![2.0]];
    let mean = |v: &[f64]| Some(v.iter().sum::<f64>() / v.len() as f64);
    let at = |confidence| bootstrap_interval(&repetitions, mean, confidence, 4000, 7).expect("two");
    assert_eq!((at(0.9).low, at(0.9).high), (0.0, 2.0));
    assert_eq!((at(0.4).low, at(0.4).high), (1.0, 1.0));
}

#[test]
fn rank_sum_intervals_invert_the_test() {
    // Published critical values of U, two-sided 5 %.
    let table: &[(usize, usize, usize)] = &[(5, 5, 2), (5, 8, 6), (8, 8, 13), (12, 12, 37)];
    for &(n, m, critical) in table {
        let a: Vec<f64> = (0..n).map(|i| (i * i) as f64).collect();
        let b: Vec<f64> = (0..m).map(|i| (i * i) as f64 * 1.7 + 3.0).collect();
        let all = sorted(&differences(&a, &b));
        let interval = rank_sum_interval(&a, &b, 0.95).expect("values");
        assert_eq!(interval.low, all[critical], "{n} {m}");
        assert_eq!(interval.high, all[n * m - 1 - critical], "{n} {m}");
        assert!((0.95..0.99).contains(&interval.confidence), "{n} {m}");
        let shift = hodges_lehmann_shift(&a, &b).expect("values");
        assert!(interval.low < shift && shift < interval.high);
    }
    // (5, 5): 4 of 252 arrangements have at most 2 pairs reversed.
    close(Some(rank_sum_cdf(5, 5)[2]), Some(4.0 / 252.0), "5 5");
    assert_eq!(rank_sum_interval(&[1.0], &[1.0, 2.0], 0.95), None);
    let (exact, normal) = (rank_sum_cdf(50, 50), rank_sum_cdf(50, 51));
    for u in (900..1500).step_by(50) {
        // Half of the 50 pairs more lie below.
        assert!((exact[u] - normal[u + 25]).abs() < 0.01, "{u}");
    }
    assert!(normal.is_sorted());
}
