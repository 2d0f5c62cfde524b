//! The helper, for the tests: what `cullet` is when it is started for that.

fn main() {
    if let Err(why) = sandbox::run_helper() {
        eprintln!("helper: {why}");
        std::process::exit(1);
    }
}
