package io.hopper4j.internal.cuda;

import io.hopper4j.Graph;
import io.hopper4j.Stream;
import io.hopper4j.bindings.hopper4j_h;
import java.lang.foreign.MemorySegment;

/** A captured graph, ready to run, and the leases of its capture. */
final class CudaGraph implements Graph {
    private final CudaDevice device;
    private final MemorySegment handle;
    private final Capture capture;
    private final Lifetime lifetime;

    CudaGraph(final CudaDevice device, final MemorySegment handle, final Capture capture) {
        this.device = device;
        this.handle = handle;
        this.capture = capture;
        this.lifetime = new Lifetime(this, "graph of " + device);
    }

    @Override
    public void launch(final Stream on) {
        final CudaStream stream = CudaStream.of("graph: stream", on, device);
        lifetime.enter();
        try {
            final MemorySegment target = stream.enter();
            try {
                if (hopper4j_h.h4j_graph_launch(handle, target, MemorySegment.NULL) != hopper4j_h.H4J_OK()) {
                    explain(target);
                }
            } finally {
                stream.exit();
            }
        } finally {
            lifetime.exit();
        }
    }

    /** Tries again with an error struct; if that succeeds, the graph was launched after all. */
    private void explain(final MemorySegment target) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_graph_launch(handle, target, call.error()));
        }
    }

    @Override
    public void close() {
        if (lifetime.close()) {
            capture.releaseAll();
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_graph_close(handle, call.error()));
            }
        }
    }

    @Override
    public String toString() {
        return "graph of " + device;
    }
}
