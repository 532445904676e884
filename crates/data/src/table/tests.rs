use super::*;
use crate::dataset::{Dataset, InMemory};
use crate::schema::{Input, TargetKind};

fn parse(text: &str, options: &CsvOptions) -> Result<InMemory> {
    parse_csv("some.csv".as_ref(), text.into(), options)
}

fn good(text: &str) -> InMemory {
    parse(text, &CsvOptions::default()).unwrap()
}

fn message(text: &str, options: &CsvOptions) -> String {
    parse(text, options).unwrap_err().to_string()
}

fn bad(text: &str) -> String {
    message(text, &CsvOptions::default())
}

fn row(data: &InMemory, i: usize) -> Vec<f32> {
    let mut x = vec![0.0; data.schema().sample_len()];
    data.read(i, &mut x).unwrap();
    x
}

fn table(data: &InMemory) -> &TableSchema {
    match &data.schema().input {
        Input::Table(table) => table,
        other => panic!("{other:?}"),
    }
}

fn classes(data: &InMemory) -> &[String] {
    data.schema().classes().unwrap()
}

#[test]
fn numbers_and_categories_are_told_apart() {
    let data = good("age, colour ,score,kind\n3,red,1e2,cat\n -4.5 ,blue,0,dog\n1,\"red\",7,cat\n");
    assert_eq!(data.len(), 3);
    assert_eq!(row(&data, 0), [3.0, 0.0, 1.0, 100.0]);
    assert_eq!(row(&data, 1), [-4.5, 1.0, 0.0, 0.0]);
    assert_eq!(classes(&data), ["cat", "dog"]);
    assert_eq!(data.class(1), 1);
    let columns = &table(&data).columns;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["age", "colour", "score"]);
    let colours = ["blue", "red"].map(String::from).to_vec();
    assert_eq!(columns[1].kind, ColumnKind::Categories(colours));
    assert_eq!(data.schema().name, "some");
}

#[test]
fn the_header_is_found_out() {
    assert_eq!(good("1,2,a\n3,4,b\n").len(), 2);
    assert_eq!(good("x,y,z\n3,4,b\n").len(), 1);
    assert_eq!(good("x,y\nred,a\nblue,b\n").len(), 2);
    // Only text, and the first line looks like the others.
    assert_eq!(good("red,a\nblue,b\nred,a\n").len(), 3);
    let no = CsvOptions {
        header: HeaderRow::No,
        ..CsvOptions::default()
    };
    assert_eq!(parse("x,y\nred,a\nblue,b\n", &no).unwrap().len(), 3);
    let yes = CsvOptions {
        header: HeaderRow::Yes,
        ..CsvOptions::default()
    };
    assert_eq!(parse("1,2\n3,4\n5,6\n", &yes).unwrap().len(), 2);
}

#[test]
fn separators_line_ends_blank_lines_and_marks_do_not_matter() {
    for text in [
        "a,b\n1,x\n2,y\n",
        "a;b\r\n1;x\r\n2;y",
        "a\tb\n\n1\tx\n   \n2\ty\n\n",
        "a|b\r1|x\r2|y\r",
        "\u{feff}a,b\n1,x\n2,y\n",
        "\"a\",\"b\"\n\"1\",\"x\"\n\"2\",\"y\"\n",
    ] {
        let data = good(text);
        assert_eq!(
            (row(&data, 0), row(&data, 1)),
            (vec![1.0], vec![2.0]),
            "{text:?}"
        );
        assert_eq!(table(&data).columns[0].name, "a", "{text:?}");
        assert_eq!(classes(&data), ["x", "y"]);
    }
}

#[test]
fn the_kind_of_target_is_found_out_or_declared() {
    assert_eq!(classes(&good("x,y\n1,10\n2,9\n3,10\n")), ["9", "10"]);
    let regression = |data: &InMemory| matches!(data.schema().target, TargetKind::Values { .. });
    assert!(regression(&good("x,y\n1,0.5\n2,9\n")));
    let many: String = (0..30).map(|i| format!("{i},{i}\n")).collect();
    assert!(regression(&good(&many)));
    let task = |task| CsvOptions {
        task: Some(task),
        ..CsvOptions::default()
    };
    assert!(regression(
        &parse("x,y\n1,10\n2,9\n", &task(Task::Regression)).unwrap()
    ));
    assert_eq!(
        parse(&many, &task(Task::Classification))
            .unwrap()
            .schema()
            .classes()
            .unwrap()
            .len(),
        30
    );
    let text = message("x,y\n1,10\n2,high\n3,3\n", &task(Task::Regression));
    assert!(
        text.starts_with("some.csv: line 3, column \"y\": \"high\" is not a number"),
        "{text}"
    );
}

#[test]
fn columns_are_chosen_by_name_or_place() {
    let text = "id,y,a,b\n1,u,1,5\n2,v,2,6\n3,u,1,7\n";
    let options = CsvOptions {
        target: Some("y".into()),
        ignore: vec![0.into()],
        categorical: vec![(-2).into()],
        ..CsvOptions::default()
    };
    let data = parse(text, &options).unwrap();
    assert_eq!(row(&data, 1), [0.0, 1.0, 6.0]);
    assert_eq!(table(&data).columns[1].position, 3);
    let with = |change: fn(&mut CsvOptions)| {
        let mut options = CsvOptions::default();
        change(&mut options);
        message(text, &options)
    };
    let text = with(|o| o.target = Some("z".into()));
    assert!(
        text.contains("data.target: there is no column \"z\"; the columns are \"id\", \"y\""),
        "{text}"
    );
    assert!(with(|o| o.target = Some(4.into())).contains("no column 4"));
    assert!(
        with(|o| o.ignore = vec![3.into()]).contains("is the target and cannot be in data.ignore")
    );
    assert!(
        with(|o| {
            o.numeric = vec!["a".into()];
            o.categorical = vec!["a".into()];
        })
        .contains("both")
    );
    assert!(
        with(|o| o.ignore = vec![0.into(), 1.into(), 2.into()])
            .contains("no column besides the target")
    );
    assert!(with(|o| o.delimiter = Some('é')).contains("cannot separate cells"));
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let text = bad("a,b,a,y\n1,2,3,u\n4,5,6,v\n");
    assert_eq!(
        text,
        "some.csv: line 1: several columns are called \"a\"; give each column a name of its own"
    );
    assert!(bad("a,,,y\n1,2,3,u\n").contains("several columns are called \"\""));
    // Where rows are to be predicted too: which of the two is meant?
    let data = good("a,b,y\n1,2,u\n4,5,v\n");
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("new.csv");
    std::fs::write(&path, "a,b,a\n1,2,3\n").unwrap();
    let text = table(&data).read_rows(&path).unwrap_err().to_string();
    assert!(
        text.contains("new.csv: line 1: several columns are called \"a\""),
        "{text}"
    );
}

#[test]
fn a_first_line_that_may_be_names_or_data_is_refused() {
    let remedy = "set data.header = \"yes\" or \"no\"";
    // Years as names: the class tells.
    let years = "2001,2002,label\n1,2,a\n3,4,b\n5,6,a\n";
    let text = bad(years);
    assert_eq!(
        text,
        format!(
            "some.csv: line 1: it may hold the columns' names or data: \
             no other line has the class \"label\"; {remedy}"
        )
    );
    assert!(bad("1,2,3\n5,6,0\n7,8,1\n9,9,0\n").contains("the class \"3\""));
    // A number's name: the column tells.
    let text = bad("2001,2002,price\n1,2,0.5\n3,4,0.25\n");
    assert!(
        text.contains("also \"price\" above a column of numbers"),
        "{text}"
    );
    assert!(text.ends_with(remedy), "{text}");
    let with = |header| CsvOptions {
        header,
        ..CsvOptions::default()
    };
    let data = parse(years, &with(HeaderRow::Yes)).unwrap();
    assert_eq!((data.len(), classes(&data).len()), (3, 2));
    let data = parse(years, &with(HeaderRow::No)).unwrap();
    assert_eq!((data.len(), classes(&data).len()), (4, 3));
    // A missing value is no name, and a class for every line says nothing.
    let fill = CsvOptions {
        missing: Missing::Mean,
        ..CsvOptions::default()
    };
    assert_eq!(parse("1,NA,a\n2,3,b\n4,5,a\n", &fill).unwrap().len(), 3);
    assert_eq!(good("1,2,a\n3,4,b\n").len(), 2);
}

#[test]
fn what_is_wrong_is_said_with_line_and_column() {
    let text = bad("a,b,y\n1,2,u\n1,2\n");
    assert!(
        text.starts_with("some.csv: line 3: has 2 cells, but the first line has 3; "),
        "{text}"
    );
    // A quoted line end shifts the lines below it.
    let text = bad("a,b,y\n1,\"x\ny\",u\n\n1,2,v,4\n");
    assert!(text.starts_with("some.csv: line 5: has 4 cells"), "{text}");
    let text = bad("a,y\n1,u\n2,v\nthree,u\n");
    assert!(
        text.starts_with("some.csv: line 4, column \"a\": \"three\" is not a number"),
        "{text}"
    );
    let text = bad("1,u\n2,v\nthree,u\n");
    assert!(
        text.starts_with("some.csv: line 3, column \"c0\": "),
        "{text}"
    );
    for n in ["1e999", "inf", "-Infinity", "1e39"] {
        let text = bad(&format!("a,y\n1,u\n{n},v\n"));
        assert!(
            text.contains(&format!("line 3, column \"a\": {n} is not a finite number")),
            "{text}"
        );
    }
    let text = bad("a,y\n1,u\n,v\n");
    assert!(
        text.starts_with("some.csv: line 3, column \"a\": the value is missing; "),
        "{text}"
    );
    let text = bad("a,b,y\n,1,u\n?,2,v\n");
    assert!(
        text.contains("column \"a\": has no values at all; list it in data.ignore"),
        "{text}"
    );
    let text = bad("a,y\n1,u\n2,\n");
    assert!(
        text.starts_with("some.csv: line 3, column \"y\": the target is missing; "),
        "{text}"
    );
    for empty in ["", "\n\n", "a,b\n", "   "] {
        assert!(bad(empty).contains("has no rows of data"), "{empty:?}");
    }
    assert!(bad("1\n2\n").contains("no column besides the target"));
    let names: String = (0..200)
        .map(|i| format!("person {i},{}\n", i % 2))
        .collect();
    assert!(bad(&names).contains("more than 100 different values"));
    let text = parse_csv(
        "l.csv".as_ref(),
        b"a,b\n1,2\n\xff,3\n".to_vec(),
        &CsvOptions::default(),
    );
    let text = text.unwrap_err().to_string();
    assert!(
        text.starts_with("l.csv: line 3: cell 1 is not UTF-8 text"),
        "{text}"
    );
}

#[test]
fn lines_that_were_skipped_still_count() {
    let options = CsvOptions {
        skip_lines: 2,
        ..CsvOptions::default()
    };
    let data = parse(
        "# made by hand\n# on a Monday, perhaps\na,y\n1,u\n",
        &options,
    )
    .unwrap();
    assert_eq!(data.len(), 1);
    let text = message("#\n#\na,y\n1,u\nx,u\n2,u\n", &options);
    assert!(text.contains("line 5, column \"a\""), "{text}");
    assert!(message("#\n#", &options).contains("no rows"));
}

#[test]
fn missing_values_stay_missing_until_they_are_filled() {
    let options = CsvOptions {
        missing: Missing::Mean,
        ..CsvOptions::default()
    };
    let data = parse("n,c,y\n1,red,u\nNA,,v\n", &options).unwrap();
    assert!(row(&data, 1).iter().all(|x| x.is_nan()));
    assert!(table(&data).encode_row(&["", "red"]).unwrap()[0].is_nan());
}

#[test]
fn a_new_row_is_encoded_as_the_training_rows_were() {
    let options = CsvOptions {
        target: Some("y".into()),
        ..CsvOptions::default()
    };
    let data = parse("n,y,c\n1,u,red\n2,v,blue\n", &options).unwrap();
    let table = table(&data);
    assert_eq!(table.encode_row(&["7", "red"]).unwrap(), [7.0, 0.0, 1.0]);
    // The whole line of a file like the training file will do too.
    assert_eq!(
        table.encode_row(&["7", "u", "red"]).unwrap(),
        [7.0, 0.0, 1.0]
    );
    let wrong = |cells: &[&str]| table.encode_row(cells).unwrap_err().to_string();
    assert!(
        wrong(&["7"]).contains("1 cells where 2 are needed; give, in this order: \"n\", \"c\"")
    );
    assert!(wrong(&["7", "green"]).contains("\"green\" is not one of the categories"));
    assert!(wrong(&["x", "red"]).contains("column \"n\": \"x\" is not a number"));
    assert!(wrong(&["", "red"]).contains("column \"n\": the value is missing"));

    let line = |text: &str| table.encode_line(text).map_err(|e| e.to_string());
    assert_eq!(line(" 7 ,\"red\"\n"), Ok(vec![7.0, 0.0, 1.0]));
    for text in ["", "7,red\n8,red"] {
        assert!(
            line(text)
                .unwrap_err()
                .contains("one line of values is needed")
        );
    }
    let spaced = good("n m y\n1 2 u\n3 4 v\n".replace(' ', ";").as_str());
    let Input::Table(spaced) = &spaced.schema().input else {
        panic!()
    };
    assert_eq!(spaced.encode_line("5;6").unwrap(), [5.0, 6.0]);
    assert_eq!(spaced.encode_line("5,6").unwrap(), [5.0, 6.0]);

    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("new.csv");
    for text in [
        "c,n\nred,7\nblue,8\n",
        "7,red\n8,blue\n",
        "7,,red\n8,?,blue\n",
        "n,y,c\n7,u,red\n8,v,blue",
    ] {
        std::fs::write(&path, text).unwrap();
        let rows = table.read_rows(&path).unwrap();
        assert_eq!(rows, [[7.0, 0.0, 1.0], [8.0, 1.0, 0.0]], "{text:?}");
    }
    std::fs::write(&path, "7,red\n8\n").unwrap();
    let text = table.read_rows(&path).unwrap_err().to_string();
    assert!(text.contains("new.csv: line 2: has 1 cells"), "{text}");
    std::fs::write(&path, "7,red\n8,pink\n").unwrap();
    let text = table.read_rows(&path).unwrap_err().to_string();
    assert!(
        text.contains("new.csv: line 2, column \"c\": \"pink\""),
        "{text}"
    );
}

#[test]
fn a_gzipped_file_reads_like_a_plain_one() {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"a,y\n1,u\n2,v\n").unwrap();
    let mut bytes = gz.finish().unwrap();
    let read = |b: Vec<u8>| parse_csv("x.csv.gz".as_ref(), b, &CsvOptions::default());
    let data = read(bytes.clone()).unwrap();
    assert_eq!((data.len(), data.schema().name.as_str()), (2, "x"));
    bytes.truncate(15);
    assert!(
        read(bytes)
            .unwrap_err()
            .to_string()
            .contains("damaged or cut short")
    );
}

#[test]
fn options_and_schemas_survive_json() {
    let options: CsvOptions = serde_json::from_str(
        r#"{"target": "price", "ignore": [0, "id"], "missing": "most_frequent", "task": "regression"}"#,
    )
    .unwrap();
    assert_eq!(options.target, Some("price".into()));
    assert_eq!(options.ignore, [0.into(), "id".into()]);
    assert!(serde_json::from_str::<CsvOptions>(r#"{"colour": 1}"#).is_err());
    let data = good("n,c,y\n1,red,u\n2,blue,v\n");
    let text = serde_json::to_string(data.schema()).unwrap();
    assert_eq!(
        serde_json::from_str::<crate::Schema>(&text).unwrap(),
        *data.schema()
    );
}

#[test]
fn numbers_in_a_foreign_spelling_are_refused_unless_declared() {
    for cell in ["0,5", "$1,200", "1.234,5", "12%", "1 000", "-0,1", "€3"] {
        let rows: String = (0..6)
            .map(|i| format!("{i};{cell};a\n{i};{cell};b\n"))
            .collect();
        let text = format!("n;price;kind\n{rows}");
        let message = bad(&text);
        assert!(message.contains("looks like a number"), "{cell}: {message}");
        assert!(message.contains("data.categorical"), "{message}");
        let options = CsvOptions {
            categorical: vec![ColumnRef::Name("price".into())],
            ..CsvOptions::default()
        };
        assert_eq!(parse(&text, &options).unwrap().len(), 12);
        let target = format!(
            "n;kind;price\n{}",
            rows.replace(";a", ";9").replace(";b", ";8")
        );
        let swapped = target.replace(&format!(";{cell};9"), &format!(";x;{cell}"));
        let swapped = swapped.replace(&format!(";{cell};8"), &format!(";y;{cell}"));
        assert!(bad(&swapped).contains("looks like a number"), "{swapped}");
    }
    for cell in ["01.02.2024", "1.2.3", "a1", "1,2,3", "-", "%"] {
        let text = format!("n;word;kind\n1;{cell};a\n2;{cell};b\n3;{cell};a\n");
        assert_eq!(good(&text).len(), 3, "{cell}");
    }
}
