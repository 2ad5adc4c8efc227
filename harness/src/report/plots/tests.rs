use super::*;

fn axes() -> Axes {
    Axes {
        x_unit: "x".to_owned(),
        y_unit: "<y>".to_owned(),
        x_tick: tick_whole,
        height: 200,
        ..Axes::over(0.0..10.0, 0.0..10.0)
    }
}

#[test]
fn colours_are_variables_and_text_is_escaped() {
    let title = "a < b & \"c\"".to_owned();
    let marks: Vec<Mark> = Role::all()
        .map(|role| Mark::Point {
            x: 1.0,
            y: 1.0,
            shape: Shape::Dot,
            role,
            hollow: false,
            title: title.clone(),
        })
        .chain([
            Mark::Bar {
                x: 0.0..9.0,
                y: 0.0..9.0,
                role: Role::Band,
                label: "<b>".to_owned(),
                title: title.clone(),
            },
            Mark::Line {
                points: vec![(0.0, 0.0), (1.0, 1.0)],
                role: Role::Accent,
                width: 1,
            },
        ])
        .collect();
    let svg = svg(&axes(), &marks, WIDE_PX).expect("drawn");
    for role in Role::all() {
        assert!(svg.contains(&format!("var(--{})", role.name())), "{role:?}");
    }
    assert!(!svg.contains('#'), "a fixed colour is left");
    assert!(
        !svg.contains("xmlns")
            && !svg.contains("sans-serif")
            && !svg.contains("<b>")
            && !svg.contains("<y>")
    );
    let narrow = super::svg(&axes(), &marks, NARROW_PX).expect("drawn");
    assert!(!narrow.contains("<title>"), "nothing points on a phone");
    assert!(
        svg.contains("<title>a &lt; b &amp; &quot;c&quot;</title>"),
        "{svg}"
    );
}

#[test]
fn roles_are_drawn_in_different_colours() {
    let mut drawn: Vec<u8> = Role::all().map(|r| r.drawn().2).collect();
    let n = drawn.len();
    drawn.dedup();
    assert_eq!(drawn.len(), n);
}

#[test]
fn labels_appear_only_where_they_fit() {
    let bar = |width| Mark::Bar {
        x: 0.0..width,
        y: 0.0..5.0,
        role: Role::Accent,
        label: "attention".to_owned(),
        title: String::new(),
    };
    let drawn = |width| {
        svg(&axes(), &[bar(width)], NARROW_PX)
            .expect("drawn")
            .contains("attention")
    };
    assert!(drawn(9.0) && !drawn(1.0));
}

#[test]
fn specks_lie_below_the_marks() {
    let marks = [
        Mark::Line {
            points: vec![(0.0, 0.0), (1.0, 1.0)],
            role: Role::Accent,
            width: 1,
        },
        Mark::Specks {
            points: vec![(1.0, 1.0), (2.0, 2.0)],
            role: Role::Warn,
        },
    ];
    let svg = svg(&axes(), &marks, WIDE_PX).expect("drawn");
    let specks = svg.find("class=\"specks\"").expect("specks");
    assert!(specks < svg.find("var(--accent)").expect("a line"));
    assert_eq!(svg.matches("h0").count(), 2);
    assert!(!svg.contains("#0102FF"));
}

#[test]
fn long_texts_are_shortened_in_the_middle() {
    assert_eq!(fitted("short", 100.0), "short");
    let text = fitted("a very long name of a case with ünïcode: 12.3", 100.0);
    assert!(
        text.starts_with("a ver") && text.contains('…') && text.ends_with("12.3"),
        "{text}"
    );
    assert!(text_px(&text) <= 100.0);
}

#[test]
fn labels_that_would_leave_the_plot_begin_further_left() {
    let label = Mark::Label {
        x: 8.0,
        y: 5.0,
        text: "int8 512.0 GOP/s".to_owned(),
        below: true,
    };
    let svg = svg(&axes(), &[label], NARROW_PX).expect("drawn");
    assert!(svg.contains(">int8 512.0 GOP/s<"), "{svg}");
}

#[test]
fn flags_stand_left_where_there_is_room() {
    let anchor = |x| {
        let flag = Mark::Flag {
            x,
            y: 5.0,
            text: "p99: 12.3".to_owned(),
        };
        let svg = svg(&axes(), &[flag], NARROW_PX).expect("drawn");
        let before = &svg[..svg.find("p99").expect("a flag")];
        before[before.rfind("<text").expect("a text")..].contains("\"end\"")
    };
    assert!(anchor(9.0) && !anchor(0.5));
}

#[test]
fn ticks_are_plain() {
    assert_eq!(
        (tick_number(140.0), tick_number(0.25), tick_number(-0.0)),
        ("140".into(), "0.25".into(), "0".into())
    );
    assert_eq!(
        (tick_whole(3.0), tick_whole(2.5)),
        ("3".into(), String::new())
    );
}

#[test]
fn names_of_points_stay_apart() {
    let point = |y: f64, text: &str| {
        let title = String::new();
        [
            Mark::Point {
                x: 2.0,
                y,
                shape: Shape::Dot,
                role: Role::Accent,
                hollow: false,
                title,
            },
            Mark::Name {
                x: 2.0,
                y,
                text: text.to_owned(),
            },
        ]
    };
    let marks: Vec<Mark> = [point(5.0, "first"), point(5.3, "second")]
        .into_iter()
        .flatten()
        .collect();
    let svg = svg(&axes(), &marks, WIDE_PX).expect("drawn");
    let anchor = |name: &str| {
        let before = &svg[..svg.find(name).expect("a name")];
        let at = before.rfind("text-anchor=\"").expect("an anchor") + 13;
        before[at..].split('"').next().expect("a word").to_owned()
    };
    assert_eq!(
        (anchor(">first"), anchor(">second")),
        ("start".into(), "end".into())
    );
    let line = Mark::Line {
        points: vec![(2.0, 5.0), (9.0, 5.0)],
        role: Role::Text,
        width: 2,
    };
    let lined: Vec<Mark> = point(5.0, "lined").into_iter().chain([line]).collect();
    let lined = super::svg(&axes(), &lined, WIDE_PX).expect("drawn");
    assert!(
        lined.contains("text-anchor=\"end\" font-size=\"52\" fill=\"var(--text)\">lined"),
        "{lined}"
    );
    // Where a third finds no place beside them, it is left out.
    let crowd = (0..40).flat_map(|i| point(5.0, &format!("crowd {i} of many")));
    let svg = super::svg(&axes(), &crowd.collect::<Vec<_>>(), NARROW_PX).expect("drawn");
    assert!((1..8).contains(&svg.matches("of many").count()));
}
