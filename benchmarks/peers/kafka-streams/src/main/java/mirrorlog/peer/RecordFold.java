package mirrorlog.peer;

import java.util.function.Supplier;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** The fold with a processor of its own: one open record for each volume, written to the store at each commit. */
final class RecordFold {
    private RecordFold() {}

    static Topology topology(String topic, CommandReader commands, Supplier<OpenRecords.Blocks> blocks, int blockSize) {
        return new Topology()
                .addSource("commands", Serdes.String().deserializer(), commands, topic)
                .addProcessor("fold", () -> new Fold(blockSize), "commands")
                .addStateStore(OpenRecords.builder("log", blocks), "fold");
    }

    private static final class Fold implements Processor<String, GenericRecord, Void, Void> {
        private final int blockSize;
        private ProcessorContext<Void, Void> context;
        private OpenRecords log;

        Fold(int blockSize) {
            this.blockSize = blockSize;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            this.context = context;
            log = context.getStateStore("log");
        }

        @Override
        public void process(Record<String, GenericRecord> command) {
            long position = context.recordMetadata().orElseThrow().offset();
            Extents.blocks(command.value(), blockSize, log.open(command.key(), position));
        }
    }
}
