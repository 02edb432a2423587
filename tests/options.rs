//! The texts generated from the table of options (src/config/options.rs): the README's table and the chart's schema.
//! With `PSYSTRIKE_WRITE=1` these tests write them; without, they fail if a text is out of date.

mod support;

use psystrike::config::options::{Fallback, Kind, Opt};
use serde_json::{Value, json};
use support::generated;

const SOURCE: &str = "src/config/options.rs";

#[test]
fn the_readme_has_every_option() {
    let mut table = "| option | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for option in Opt::ALL.iter().filter(|option| option.kind() != Kind::Action) {
        let value = option.kind().placeholder().replace('|', "\\|");
        let name = format!("{} {value}", option.name());
        let default = match option.default() {
            Fallback::Value(value) => format!("`{value}`"),
            Fallback::Text(text) => text.to_owned(),
            Fallback::Silent => String::new(),
        };
        table += &format!("| `{}` | {default} | {} |\n", name.trim_end(), option.description());
    }
    let lines =
        ("<!-- Generated from src/config/options.rs -->\n\n", "\n<!-- End of what is generated -->\n");
    generated::part_between("README.md", lines, &table, SOURCE);
}

#[test]
fn the_charts_schema_has_every_option() {
    let properties = Opt::ALL.iter().filter_map(|option| Some((option, schema(*option)?)));
    let properties = properties.map(|(option, schema)| {
        let name = option.name().trim_start_matches('-');
        let schema = serde_json::to_string_pretty(&schema).expect("it is JSON").replace('\n', "\n        ");
        format!("        \"{name}\": {schema}")
    });
    let generated = properties.collect::<Vec<_>>().join(",\n") + "\n";
    let lines = (
        "    \"options\": {\n      \"type\": \"object\",\n      \"properties\": {\n",
        "      },\n      \"additionalProperties\": false,\n      \"required\": [\n        \"allow\"\n",
    );
    generated::part_between("deploy/helm/values.schema.json", lines, &generated, SOURCE);
}

/// The JSON Schema of a value in the chart. `None`: the chart does not take the option.
fn schema(option: Opt) -> Option<Value> {
    const DURATION: &str = "^(?:[0-9]{1,9}h)?(?:[0-9]{1,9}m)?(?:[0-9]{1,9}s)?(?:[0-9]{1,9}ms)?$";
    let list = |pattern: &str| json!({ "type": "array", "items": { "type": "string", "pattern": pattern } });
    let mut schema = match option.kind() {
        Kind::Addresses | Kind::Action | Kind::Url => return None,
        Kind::File => return None, // from a volume
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Ranges => list("^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"),
        Kind::Names => list("^[0-9A-Za-z_.-]+$"),
        Kind::Host => json!({ "type": "string", "pattern": "^[0-9A-Za-z_.:-]+$" }),
        Kind::Hosts => list("^[0-9A-Za-z_.:-]+$"),
        Kind::ClientNames => list("^[^,]+$"),
        Kind::TlsVersion => json!({ "enum": ["1.2", "1.3"] }),
        Kind::Ports => {
            json!({ "type": "string", "pattern": "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$" })
        }
        Kind::Workers => {
            json!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 256 }] })
        }
        Kind::Duration => {
            let zero = json!({ "pattern": "^[0hms]*$" });
            json!({ "type": "string", "pattern": DURATION, "not": zero })
        }
        Kind::Milliseconds => json!({ "anyOf": [
            { "type": "string", "pattern": "^(?:0s?|0*(?:[0-9]{1,2}|100)ms)$" },
            { "const": 0 },
        ] }),
        Kind::DurationOrZero => json!({ "type": "string", "pattern": DURATION, "minLength": 2 }),
        Kind::Count => json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }),
        Kind::CountOrZero => json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000 }),
        Kind::Size => json!({ "type": "string", "pattern": "^[0-9]{1,13}(KiB|MiB|GiB)?$" }),
        Kind::Format => json!({ "enum": ["logfmt", "json", "plain"] }),
        Kind::Scheme => json!({ "enum": ["http", "https", "client"] }),
        Kind::Level => json!({ "enum": ["off", "error", "warn", "info", "debug", "trace"] }),
    };
    if option == Opt::Allow {
        schema["minItems"] = 1.into();
    }
    Some(schema)
}
