package io.hopper4j.contract;

import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Tensor;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * A planned operation and the operands that it asks for.
 *
 * @param operation as messages begin
 * @param plan closed by whoever asked for the case
 * @param operands all of them; those of a matrix with scales are called {@code x.values} and {@code x.scales}
 * @param bind binds tensors by the operands' names
 */
record OperandCase<T extends Tensor>(
        String operation, Plan plan, List<Operand> operands, Function<Map<String, @Nullable T>, Launch> bind) {}
