package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;

/** Lifetimes of the plain Java reference. */
final class ReferenceLifetimeTest extends LifetimeContractTest<HostTensor> {
    ReferenceLifetimeTest() {
        super(Kernels.reference(), _ -> LifetimeStress.hostOwner());
    }
}
