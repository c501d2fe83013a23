/**
 * Memory-mapped weights: reads files of the <a href="https://github.com/huggingface/safetensors">safetensors</a> format without copying a tensor.
 * A file is input from outside, so everything in it is checked before use and nothing is ever read beyond its end.
 */
@NullMarked
package io.hopper4j.safetensors;

import org.jspecify.annotations.NullMarked;
