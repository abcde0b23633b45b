//! A program whose panic hook ends it must not be ended by a panic that is caught. The hook is one for the whole
//! process: this test has its own.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::panic;
use std::sync::Mutex;
use stockroom_storage::panics::{are_caught, catch};

static SEEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());

#[test]
fn a_hook_hears_whether_a_panic_is_caught() {
    panic::set_hook(Box::new(|_| SEEN.lock().unwrap().push(are_caught())));
    assert_eq!(catch(|| 7), Ok(7));
    assert_eq!(catch(|| -> u8 { panic!("page {} is damaged", 3) }), Err("page 3 is damaged".to_owned()));
    assert_eq!(catch(|| catch(|| -> u8 { panic!("inner") })), Ok(Err("inner".to_owned())));
    assert!(panic::catch_unwind(|| panic!("nobody expects this")).is_err());
    assert!(std::thread::spawn(|| panic!("nor this")).join().is_err());
    assert_eq!(*SEEN.lock().unwrap(), [true, true, false, false]);
}
