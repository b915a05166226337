fn main(){ println!("{:?}", llama_cpp_2::list_llama_ggml_backend_devices()); }
