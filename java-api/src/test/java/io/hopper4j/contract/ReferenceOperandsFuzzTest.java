package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import java.lang.foreign.Arena;

/** Random operands of the plain Java reference. */
final class ReferenceOperandsFuzzTest extends OperandsFuzzTest<HostTensor> {
    ReferenceOperandsFuzzTest() {
        super("the reference");
    }

    @Override
    Backend<HostTensor> open() {
        return new ReferenceBackend();
    }

    @Override
    HostTensor closed(final Backend<HostTensor> backend, final TensorSpec spec) {
        try (Arena arena = Arena.ofConfined()) {
            return HostTensor.allocate(arena, spec);
        }
    }

    @Override
    boolean noticesOnlyWhatIsTouched() {
        return true;
    }
}
