package mirrorlog.peer;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;

/** Folds mirrorlog's tracking commands with Kafka Streams: {@code Peer plain|tuned|windowed}, settings in the environment. */
public final class Peer {
    private Peer() {}

    public static void main(String[] arguments) throws InterruptedException {
        String mode = arguments[0];
        KafkaStreams streams = new KafkaStreams(topology(mode), settings(mode));
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close(Duration.ofSeconds(10));
            stopped.countDown();
        }));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            throw new IllegalStateException(error);
        });
        streams.start();
        stopped.await();
    }

    private static Topology topology(String mode) {
        String topic = setting("PEER_TOPIC");
        Path schemas = Path.of(setting("PEER_SCHEMAS"));
        int blockSize = Integer.parseInt(setting("PEER_BLOCK_SIZE"));
        return switch (mode) {
            case "plain" -> RecordFold.topology(topic, CommandReader.of(schemas), AddedBlocks::new, blockSize);
            case "tuned" -> RecordFold.topology(
                    topic, CommandReader.of(schemas, List.of("offsets", "lengths")), CollectedBlocks::new, blockSize);
            case "windowed" -> WindowedFold.topology(topic, schemas, blockSize);
            default -> throw new IllegalArgumentException(mode);
        };
    }

    private static Properties settings(String mode) {
        Properties found = new Properties();
        found.putAll(Map.of(
                StreamsConfig.APPLICATION_ID_CONFIG, setting("PEER_GROUP"),
                StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, setting("PEER_SERVERS"),
                StreamsConfig.STATE_DIR_CONFIG, setting("PEER_STATE"),
                // As often as the node flushes.
                StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, setting("PEER_FLUSH_MS"),
                StreamsConfig.producerPrefix("acks"), "all",
                StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest"));
        if (mode.equals("tuned")) {
            found.putAll(Map.of(
                    StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000,
                    StreamsConfig.consumerPrefix("max.poll.records"), 5_000,
                    StreamsConfig.consumerPrefix("max.partition.fetch.bytes"), 4 << 20,
                    StreamsConfig.consumerPrefix("receive.buffer.bytes"), 1 << 20));
        }
        return found;
    }

    private static String setting(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException(name + " isn't set");
        }
        return value;
    }

    /** One JSON line for the bench. */
    static void say(String messageType) {
        System.out.printf("{\"message_type\": \"%s\"}%n", messageType);
        System.out.flush();
    }
}
