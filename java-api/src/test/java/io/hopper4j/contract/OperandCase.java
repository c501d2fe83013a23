package io.hopper4j.contract;

import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Tensor;
import io.hopper4j.moe.ExpertGroup;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * A planned operation and the operands that it asks for.
 *
 * @param operation as messages begin
 * @param plan closed with the case
 * @param owner what must stay open while the plan is, closed after it; null: nothing
 * @param operands all of them; those of a matrix with scales are called {@code x.values} and {@code x.scales}
 * @param bind binds tensors by the operands' names
 */
record OperandCase<T extends Tensor>(
        String operation,
        Plan plan,
        @Nullable ExpertGroup<T> owner,
        List<Operand> operands,
        Function<Map<String, @Nullable T>, Launch> bind)
        implements AutoCloseable {
    @Override
    public void close() {
        plan.close();
        if (owner != null) {
            owner.close();
        }
    }
}
