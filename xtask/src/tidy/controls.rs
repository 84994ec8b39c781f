//! The must-fail controls can be built into the crates of the proof and nowhere else: what ships never has
//! a rule of ownership that an environment variable switches off (core/src/control.rs).

use serde_json::Value;

use super::Finding;

/// The packages that may ask for the feature: they run the proof and are linked by nothing that ships.
const MAY: [&str; 4] = ["millet-workload", "millet-model", "millet-sim", "millet-torture"];

/// Checks `cargo metadata`.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let local = packages.iter().filter(|package| package["source"].is_null());
    local.flat_map(breaches).collect()
}

fn breaches(package: &Value) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    for dependency in package["dependencies"].as_array().map_or(&[][..], Vec::as_slice) {
        let import = dependency["name"].as_str().unwrap_or_default();
        let asks = dependency["features"].as_array().is_some_and(|f| f.iter().any(|f| f == "controls"));
        if asks && !MAY.contains(&name) {
            found.push(Finding::new(name, "turns the must-fail controls on; only the proof's crates may"));
        }
        if MAY.contains(&import) && !MAY.contains(&name) {
            found.push(Finding::new(name, format!("depends on {import}, which brings the controls along")));
        }
    }
    let forwards = |feature: &Value| feature.as_str().is_some_and(|f| f.ends_with("/controls"));
    let features = package["features"].as_object();
    if features.is_some_and(|all| all.values().filter_map(Value::as_array).flatten().any(forwards)) {
        found.push(Finding::new(name, "has a feature that turns the must-fail controls on"));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(package: Value) -> usize {
        check(&json!({ "packages": [package] })).len()
    }

    #[test]
    fn only_the_proof_may_turn_the_controls_on() {
        let core = |features: Value| json!([{"name": "millet-core", "features": features}]);
        let package = |name: &str, dependencies: Value| json!({"name": name, "source": null, "dependencies": dependencies});
        assert_eq!(says(package("millet-sim", core(json!(["controls"])))), 0);
        assert_eq!(says(package("realm", core(json!(["serde"])))), 0);
        assert_eq!(says(package("realm", core(json!(["serde", "controls"])))), 1);
        assert_eq!(says(package("realm", json!([{"name": "millet-workload", "features": []}]))), 1);
        let features = json!({"broken": ["millet-core/controls"]});
        assert_eq!(
            says(json!({"name": "millet", "source": null, "dependencies": [], "features": features})),
            1
        );
    }
}
