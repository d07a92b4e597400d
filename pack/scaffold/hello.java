import java.util.Properties;

public class hello {
    public static void main(String[] args) throws Exception {
        // Parameters come as name='value' lines on stdin (parameter_format: dotenv).
        var parameters = new Properties();
        parameters.load(System.in);
        var name = parameters.getProperty("name");
        System.out.println("{\"greeting\": \"Hello, " + name.substring(1, name.length() - 1) + "!\"}");
    }
}
