//! Layers that drafts are made without are chosen by how often such drafts are kept.

use super::*;

/// A model of five layers, of which one adds nothing to the residual stream.
fn model_with_an_idle_layer(idle: usize, pool: &Pool, options: &Options) -> Model {
    let shape = Shape {
        layers: 5,
        ..Shape::load("tiny").expect("built in")
    };
    let mut bytes = in_memory(&shape, "Q8_0", 7).expect("small");
    let open = |bytes: &[u8]| Gguf::from_bytes(Path::new("test.gguf"), bytes.to_vec());
    let gguf = open(&bytes).expect("valid");
    for name in ["attn_output", "ffn_down"] {
        let tensor = gguf.tensor(&format!("blk.{idle}.{name}.weight"));
        let data = gguf.data(tensor.expect("there"));
        let at = bytes.windows(data.len()).position(|here| here == data);
        let at = at.expect("there");
        bytes[at..at + data.len()].fill(0);
    }
    Model::from_gguf(open(&bytes).expect("valid"), pool, options).expect("model")
}

#[test]
fn layers_that_matter_least_are_left_out_first() {
    let found = [1, 2].map(|threads| {
        let options = options(threads, Isa::Auto);
        let pool = Pool::new(&options).expect("pool");
        let model = model_with_an_idle_layer(2, &pool, &options);
        let session = || Session::new(&model, &pool, &options).expect("session");
        let windows: Vec<Vec<u32>> = prompt().chunks(20).map(<[u32]>::to_vec).collect();
        let mut own = session();
        let mut search = LayerSearch::new(&model, &mut own, &windows).expect("fits");
        let mut tried = 0;
        let found = [(); 4].map(|()| search.next(|| tried += 1).expect("a layer is left"));
        assert_eq!(tried, 5 + 4 + 3 + 2);
        let error = search.next(|| ()).expect_err("one layer must stay");
        assert!(error.to_string().contains("all layers"), "{error}");
        for one in &found {
            let expect = drafted_alone(&model, &mut session(), &windows, &one.layers);
            assert_eq!((one.accepted, one.positions), expect, "{one:?}");
        }
        found
    });
    assert_eq!(found[0], found[1], "whatever the number of threads");
    let [first, rest @ ..] = &found[0];
    assert_eq!(
        (&first.layers[..], first.accepted),
        (&[2][..], first.positions)
    );
    assert!(rest.iter().all(|one| one.accepted < one.positions));
    let shares = found[0].iter().map(|one| one.read_share);
    let shares: Vec<f64> = shares.collect();
    assert!(
        shares[0] < 1.0 && shares.is_sorted_by(|a, b| a > b),
        "{shares:?}"
    );
    // One and a half token in one and a half passes; 17 in two and six tenths.
    let one = Skipping {
        layers: vec![2],
        positions: 10,
        accepted: 5,
        read_share: 0.1,
    };
    assert_eq!(one.speed_up(0.4), (1, 1.0));
    let (k, speed_up) = Skipping {
        accepted: 10,
        ..one
    }
    .speed_up(0.0);
    assert!(
        k == 16 && (speed_up - 17.0 / 2.6).abs() < 1e-12,
        "{k} {speed_up}"
    );
}

/// Drafted tokens that are the model's, and positions, each behind a cache of its own that the whole model wrote.
fn drafted_alone(
    model: &Model,
    session: &mut Session<'_>,
    windows: &[Vec<u32>],
    skipped: &[usize],
) -> (usize, usize) {
    let mut parts = Parts::all(model);
    parts.skip_layers(skipped).expect("some are left");
    let (mut same, mut all) = (0, 0);
    for window in windows {
        for at in 0..window.len() - 1 {
            let [own, drafted] = [true, false].map(|whole| {
                session.truncate(0);
                if at > 0 {
                    session.prefill(&window[..at]).expect("fits");
                }
                match whole {
                    true => argmax(session.decode(window[at]).expect("fits")),
                    false => {
                        let draft = |session: &mut Session<'_>| argmax(session.decode(window[at])?);
                        session.draft(&mut parts, draft).0
                    }
                }
            });
            same += usize::from(own.expect("finite") == drafted.expect("finite"));
            all += 1;
        }
    }
    (same, all)
}
