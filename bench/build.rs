//! Compiles the few lines of C++ in front of Boost's queue.

fn main() {
    println!("cargo::rerun-if-changed=src/calls/queue.cpp");
    #[cfg(feature = "boost")]
    {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(3).file("src/calls/queue.cpp");
        build.flag_if_supported("-Wno-unused-parameter").compile("bench_queue");
        // Its semaphores and its shared memory.
        println!("cargo::rustc-link-lib=pthread");
        println!("cargo::rustc-link-lib=rt");
    }
}
