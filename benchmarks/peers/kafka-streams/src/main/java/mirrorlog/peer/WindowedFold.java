package mirrorlog.peer;

import java.nio.file.Path;
import java.time.Duration;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;
import org.roaringbitmap.RoaringBitmap;

/**
 * The shortest way to write it: the DSL's windowed aggregate, a bitmap for each volume and second of the hosts' time. Every
 * command reads its second's bitmap from the store's cache and writes it back, which is why it isn't what the bench compares
 * with.
 */
final class WindowedFold {
    private WindowedFold() {}

    static Topology topology(String topic, Path schemas, int blockSize) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), CommandReader.of(schemas).serde()))
                .groupByKey()
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(1), Duration.ofHours(1)))
                .aggregate(
                        RoaringBitmap::new,
                        (volume, command, bitmap) -> fold(command, blockSize, bitmap),
                        Materialized.<String, RoaringBitmap, WindowStore<Bytes, byte[]>>as("log")
                                .withKeySerde(Serdes.String())
                                .withValueSerde(BitmapSerde.serde())
                                .withRetention(Duration.ofDays(1)));
        return builder.build();
    }

    private static RoaringBitmap fold(GenericRecord command, int blockSize, RoaringBitmap bitmap) {
        Extents.blocks(command, blockSize, bitmap::add);
        return bitmap;
    }
}
