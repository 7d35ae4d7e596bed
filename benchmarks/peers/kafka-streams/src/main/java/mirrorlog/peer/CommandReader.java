package mirrorlog.peer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** Tracking commands from Avro's single-object encoding: every version of the schema is known, the newest one is read. */
final class CommandReader implements Deserializer<GenericRecord> {
    private final BinaryMessageDecoder<GenericRecord> decoder;
    private boolean begun;

    private CommandReader(Schema readAs, List<Schema> written) {
        decoder = new BinaryMessageDecoder<>(new GenericData(), readAs);
        written.forEach(decoder::addSchema);
    }

    /** Reads {@code tracking_command.v*.avsc} in {@code folder}. */
    static CommandReader of(Path folder) {
        List<Schema> versions = versions(folder);
        return new CommandReader(versions.get(versions.size() - 1), versions);
    }

    /** As {@code of}, and leaves out every field that {@code names} doesn't name. */
    static CommandReader of(Path folder, List<String> names) {
        List<Schema> versions = versions(folder);
        Schema newest = versions.get(versions.size() - 1);
        List<Schema.Field> kept = newest.getFields().stream()
                .filter(field -> names.contains(field.name()))
                .map(field -> new Schema.Field(field, field.schema()))
                .toList();
        return new CommandReader(
                Schema.createRecord(newest.getName(), null, newest.getNamespace(), false, kept), versions);
    }

    private static List<Schema> versions(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(file -> file.getFileName().toString().matches("tracking_command\\.v\\d+\\.avsc"))
                    .sorted(Comparator.comparingInt(CommandReader::version))
                    .map(CommandReader::parse)
                    .toList();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static int version(Path file) {
        return Integer.parseInt(file.getFileName().toString().replaceAll("\\D", ""));
    }

    private static Schema parse(Path file) {
        try {
            return new Schema.Parser().parse(file.toFile());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** For a source: nothing is ever written. */
    Serde<GenericRecord> serde() {
        return Serdes.serdeFrom((topic, command) -> { throw new UnsupportedOperationException(); }, this);
    }

    @Override
    public GenericRecord deserialize(String topic, byte[] data) {
        if (!begun) {
            begun = true;
            Peer.say("begun");
        }
        try {
            return decoder.decode(data);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
