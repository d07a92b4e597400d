import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.time.Instant;

/** Says how long a certificate is valid. */
public class Certificate {
    public static void main(String[] args) throws Exception {
        // parameter_delivery: file, in a directory that only this execution has.
        var parameters = Json.object(Files.readString(Path.of(System.getenv("ATTUNE_PARAMETER_FILE"))));
        var pem = ((String) parameters.get("pem")).getBytes(StandardCharsets.US_ASCII);
        var certificate = (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(pem));
        var days = Duration.between(Instant.now(), certificate.getNotAfter().toInstant()).toDays();
        var warnDays = ((Number) parameters.get("warn_days")).longValue();
        System.out.printf("{\"subject\": %s, \"not_after\": \"%s\", \"days\": %d, \"warn\": %b}%n",
            Json.quote(certificate.getSubjectX500Principal().getName()), certificate.getNotAfter().toInstant(), days, days < warnDays);
    }
}
