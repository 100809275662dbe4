//! What is public is deliberate: `tests/public_api.txt` lists it. `UZRAM_BLESS=1` writes the listing anew.

#[test]
fn the_public_api_is_listed() {
    uzram_testkit::api::assert_listed(env!("CARGO_MANIFEST_DIR"));
}
