#include <memory>

#include "runtime/handles.h"

using namespace h4j;

namespace {

// H4J_OK or H4J_NOT_READY; anything else throws.
h4j_status readiness(CUresult result, const char* call, const h4j_device& device) {
  if (result == CUDA_ERROR_NOT_READY) return H4J_NOT_READY;
  check(result, call);
  throw_fault(device);
  return H4J_OK;
}

}  // namespace

h4j_status h4j_stream_create(h4j_device* device, h4j_stream** stream, h4j_error* error) {
  return guarded("stream_create", error, [&] {
    h4j_stream*& out = require_output(stream, "stream_create", "stream");
    out = nullptr;
    h4j_device& opened = require_handle(device, "stream_create", "device");
    const ScopedContext current(opened.primary);
    auto made = std::make_unique<h4j_stream>(h4j_stream{&opened, opened.primary, nullptr, true});
    check(driver().cuStreamCreate(&made->stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    out = made.release();
  });
}

h4j_status h4j_stream_wrap(h4j_device* device, uint64_t cu_stream, h4j_stream** stream, h4j_error* error) {
  return guarded("stream_wrap", error, [&] {
    h4j_stream*& out = require_output(stream, "stream_wrap", "stream");
    out = nullptr;
    h4j_device& opened = require_handle(device, "stream_wrap", "device");
    auto made = std::make_unique<h4j_stream>(h4j_stream{&opened, opened.primary, reinterpret_cast<CUstream>(cu_stream), false});
    if (cu_stream != 0) {
      check(driver().cuStreamGetCtx(made->stream, &made->context), "cuStreamGetCtx");
      const ScopedContext current(made->context);
      CUdevice owner{};
      check(driver().cuCtxGetDevice(&owner), "cuCtxGetDevice");
      if (owner != opened.device) {
        invalid("stream_wrap", "cu_stream", format("a stream of device %d", static_cast<int>(owner)), format("one of device %d", opened.ordinal));
      }
    }
    out = made.release();
  });
}

h4j_status h4j_stream_close(h4j_stream* stream, h4j_error* error) {
  return guarded("stream_close", error, [&] {
    if (stream == nullptr) return;
    const std::unique_ptr<h4j_stream> owned(stream);
    if (!owned->owned) return;
    const ScopedContext current(owned->context);
    const CUresult waited = driver().cuStreamSynchronize(owned->stream);
    check(driver().cuStreamDestroy(owned->stream), "cuStreamDestroy");
    check(waited, "cuStreamSynchronize");
  });
}

h4j_status h4j_stream_handle(h4j_stream* stream, uint64_t* cu_stream, h4j_error* error) {
  return guarded("stream_handle", error, [&] {
    require_output(cu_stream, "stream_handle", "cu_stream") = reinterpret_cast<uint64_t>(require_handle(stream, "stream_handle", "stream").stream);
  });
}

h4j_status h4j_stream_synchronize(h4j_stream* stream, h4j_error* error) {
  return guarded("stream_synchronize", error, [&] {
    const h4j_stream& target = require_handle(stream, "stream_synchronize", "stream");
    const ScopedContext current(target.context);
    check(driver().cuStreamSynchronize(target.stream), "cuStreamSynchronize");
    throw_fault(*target.device);
  });
}

h4j_status h4j_stream_query(h4j_stream* stream, h4j_error* error) {
  return guarded("stream_query", error, [&] {
    const h4j_stream& target = require_handle(stream, "stream_query", "stream");
    const ScopedContext current(target.context);
    return readiness(driver().cuStreamQuery(target.stream), "cuStreamQuery", *target.device);
  });
}

h4j_status h4j_event_create(h4j_stream* stream, int32_t timed, h4j_event** event, h4j_error* error) {
  return guarded("event_create", error, [&] {
    h4j_event*& out = require_output(event, "event_create", "event");
    out = nullptr;
    const h4j_stream& target = require_handle(stream, "event_create", "stream");
    const ScopedContext current(target.context);
    auto made = std::make_unique<h4j_event>(h4j_event{target.device, target.context, nullptr, timed != 0});
    check(driver().cuEventCreate(&made->event, timed != 0 ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    out = made.release();
  });
}

h4j_status h4j_event_close(h4j_event* event, h4j_error* error) {
  return guarded("event_close", error, [&] {
    if (event == nullptr) return;
    const std::unique_ptr<h4j_event> owned(event);
    const ScopedContext current(owned->context);
    check(driver().cuEventDestroy(owned->event), "cuEventDestroy");
  });
}

h4j_status h4j_event_record(h4j_event* event, h4j_stream* stream, h4j_error* error) {
  return guarded("event_record", error, [&] {
    const h4j_event& marker = require_handle(event, "event_record", "event");
    const h4j_stream& target = require_handle(stream, "event_record", "stream");
    if (marker.context != target.context) {
      invalid("event_record", "stream", "a stream of another context", "one of the context that the event was made in");
    }
    const ScopedContext current(target.context);
    check(driver().cuEventRecord(marker.event, target.stream), "cuEventRecord");
  });
}

h4j_status h4j_stream_wait(h4j_stream* stream, h4j_event* event, h4j_error* error) {
  return guarded("stream_wait", error, [&] {
    const h4j_stream& target = require_handle(stream, "stream_wait", "stream");
    const h4j_event& marker = require_handle(event, "stream_wait", "event");
    const ScopedContext current(target.context);
    check(driver().cuStreamWaitEvent(target.stream, marker.event, 0), "cuStreamWaitEvent");
  });
}

h4j_status h4j_event_synchronize(h4j_event* event, h4j_error* error) {
  return guarded("event_synchronize", error, [&] {
    const h4j_event& marker = require_handle(event, "event_synchronize", "event");
    const ScopedContext current(marker.context);
    check(driver().cuEventSynchronize(marker.event), "cuEventSynchronize");
    throw_fault(*marker.device);
  });
}

h4j_status h4j_event_query(h4j_event* event, h4j_error* error) {
  return guarded("event_query", error, [&] {
    const h4j_event& marker = require_handle(event, "event_query", "event");
    const ScopedContext current(marker.context);
    return readiness(driver().cuEventQuery(marker.event), "cuEventQuery", *marker.device);
  });
}

h4j_status h4j_event_elapsed(h4j_event* start, h4j_event* end, double* microseconds, h4j_error* error) {
  return guarded("event_elapsed", error, [&] {
    const h4j_event& first = require_handle(start, "event_elapsed", "start");
    const h4j_event& last = require_handle(end, "event_elapsed", "end");
    if (!first.timed) invalid("event_elapsed", "start", "an event without timing", "a timed event");
    if (!last.timed) invalid("event_elapsed", "end", "an event without timing", "a timed event");
    const ScopedContext current(first.context);
    float milliseconds = 0;
    check(driver().cuEventElapsedTime(&milliseconds, first.event, last.event), "cuEventElapsedTime");
    require_output(microseconds, "event_elapsed", "microseconds") = 1000.0 * milliseconds;
  });
}

h4j_status h4j_capture_begin(h4j_stream* stream, h4j_error* error) {
  return guarded("capture_begin", error, [&] {
    const h4j_stream& target = require_handle(stream, "capture_begin", "stream");
    if (target.stream == nullptr) invalid("capture_begin", "stream", "the legacy default stream", "any other stream: CUDA cannot capture this one");
    const ScopedContext current(target.context);
    CUstreamCaptureStatus capturing{};
    check(driver().cuStreamIsCapturing(target.stream, &capturing), "cuStreamIsCapturing");
    if (capturing != CU_STREAM_CAPTURE_STATUS_NONE) {
      fail(H4J_INVALID_STATE, "capture_begin", "stream", "a stream that is being captured", "one that is not");
    }
    check(driver().cuStreamBeginCapture(target.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  });
}

h4j_status h4j_capture_end(h4j_stream* stream, h4j_graph** graph, h4j_error* error) {
  return guarded("capture_end", error, [&] {
    if (graph != nullptr) *graph = nullptr;
    const h4j_stream& target = require_handle(stream, "capture_end", "stream");
    const ScopedContext current(target.context);
    CUstreamCaptureStatus capturing{};
    check(driver().cuStreamIsCapturing(target.stream, &capturing), "cuStreamIsCapturing");
    if (capturing == CU_STREAM_CAPTURE_STATUS_NONE) {
      fail(H4J_INVALID_STATE, "capture_end", "stream", "a stream that is not being captured", "one between capture_begin and capture_end");
    }
    CUgraph recorded = nullptr;
    const CUresult ended = driver().cuStreamEndCapture(target.stream, &recorded);
    if (graph == nullptr) {
      // Thrown away on purpose: an invalidated capture is no news.
      if (recorded != nullptr) driver().cuGraphDestroy(recorded);
      return;
    }
    check(ended, "cuStreamEndCapture");
    CUgraphExec executable = nullptr;
    const CUresult made = driver().cuGraphInstantiate(&executable, recorded, 0);
    driver().cuGraphDestroy(recorded);
    check(made, "cuGraphInstantiate");
    *graph = new h4j_graph{target.context, executable};
  });
}

h4j_status h4j_graph_launch(h4j_graph* graph, h4j_stream* stream, h4j_error* error) {
  return guarded("graph_launch", error, [&] {
    h4j_graph& recorded = require_handle(graph, "graph_launch", "graph");
    const h4j_stream& target = require_handle(stream, "graph_launch", "stream");
    if (recorded.context != target.context) invalid("graph_launch", "stream", "a stream of another context", "one of the context that was captured");
    const ScopedContext current(target.context);
    const std::lock_guard one_at_a_time(recorded.launching);
    check(driver().cuGraphLaunch(recorded.executable, target.stream), "cuGraphLaunch");
  });
}

h4j_status h4j_graph_close(h4j_graph* graph, h4j_error* error) {
  return guarded("graph_close", error, [&] {
    if (graph == nullptr) return;
    const std::unique_ptr<h4j_graph> owned(graph);
    const ScopedContext current(owned->context);
    check(driver().cuGraphExecDestroy(owned->executable), "cuGraphExecDestroy");
  });
}
